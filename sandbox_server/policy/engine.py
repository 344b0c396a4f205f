"""`decide`: what becomes of a request. Pure, total, and it explains itself.

1. Who: the principal's claims give roles; roles bring those that they inherit. No role, no right.
2. Floor: what no policy can allow (metadata addresses, two statements at once) is denied.
3. Deny: a rule of any role that denies wins over all that allow.
4. Ask, allow: some role must allow it; if a rule that allows asks, the caller's human is asked.
5. Default: everything else is denied. So is whatever goes wrong while deciding.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox_server.policy.decision import Decision, Principal, Request
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.judging import code, database, egress, files, resources, web
from sandbox_server.policy.judging.judgment import Judgment, listing
from sandbox_server.policy.judging.nearness import closest
from sandbox_server.policy.models import Policy
from sandbox_server.policy.roles import Membership
from sandbox_server.policy.schema.base import TOOLS

__all__ = ["decide", "effective", "visible_tools"]

Columns = Mapping[str, tuple[str, ...]]


def effective(policy: Policy, principal: Principal) -> Effective:
    """All that `principal` may do; made once for each set of roles."""
    return policy.compiled.effective(policy.compiled.membership(principal).roles)


def visible_tools(granted: Effective) -> tuple[str, ...]:
    """The tools that a principal with these rights is shown, in the usual order. A tool that could do nothing
    (no language, no database) is not."""
    useless = {
        "code_execution": not granted.languages,
        "web_api": not granted.observe and not granted.web.allow.rules,
        "database": not granted.databases,
    }
    names = set(TOOLS) if granted.observe else set(granted.tools.granted())
    return tuple(name for name in TOOLS if name in names and not useless.get(name, False))


def decide(
    policy: Policy, principal: Principal, request: Request, *, columns: Columns | None = None
) -> Decision:
    """Never raises. What goes wrong inside is a denial with the reason `error`.

    `columns` are those that the relations of the database have that `request` is about; without them `*`
    is denied where a column is withheld.
    """
    try:
        return _decide(policy, principal, request, columns)
    except Exception as error:
        return Decision(
            "deny",
            "error",
            "error",
            "the policy could not decide this request",
            policy.revision,
            hint="a fault of the server or of its policy; its operator finds it in the decision log",
            trace=(f"error: {type(error).__name__}",),
        )


def _decide(policy: Policy, principal: Principal, request: Request, columns: Columns | None) -> Decision:
    membership = policy.compiled.membership(principal)
    if not membership.roles:
        judged = Judgment(
            "deny", "default", "principal.no_role", "nothing in the policy is for this caller",
            hint="ask the operator for a role", trace=("principals: none matches",),
        )  # fmt: skip
        return _decision(policy, judged, ())
    granted = policy.compiled.effective(membership.roles)
    tool = _by_tool(granted, request)
    if tool is not None and tool.effect == "deny" and not (granted.observe and tool.observable):
        judged = tool
    else:
        asked = _judge(policy, granted, request, columns)
        judged = asked if tool is None else _together(tool, asked)
    return _decision(policy, judged, _who(membership, granted), observe=granted.observe)


def _who(membership: Membership, granted: Effective) -> tuple[str, ...]:
    matched = ", ".join(filter(None, membership.matched)) or "everybody"
    return (f"principals: {matched}", f"roles: {', '.join(granted.roles)}")


def _by_tool(granted: Effective, request: Request) -> Judgment | None:
    """Whether the tool as such is granted; None for what is no tool."""
    tool, rules = request.tool, granted.tools
    if tool in ("egress", "resource", "prompt"):
        return None
    if tool in rules.deny:
        rule = rules.deny[tool]
        return Judgment(
            "deny", rule, "tool.denied", f"the policy denies the tool {tool}", observable=True,
            hint=f"tools granted: {listing(rules.granted())}", nearest=listing(rules.granted()),
            trace=(f"deny: {rule}",),
        )  # fmt: skip
    if tool in rules.ask:
        return Judgment("ask", rules.ask[tool], "allowed", trace=(f"ask: {rules.ask[tool]}",))
    if tool in rules.allow:
        return Judgment("allow", rules.allow[tool], "allowed", trace=(f"allow: {rules.allow[tool]}",))
    near = closest(tool, rules.granted())
    return Judgment(
        "deny", "default", "tool.not_granted", f"the tool {tool[:64]} is not granted",
        observable=tool in TOOLS,
        hint=f"tools granted: {listing(rules.granted())}",
        nearest=near[0] if near else listing(rules.granted()),
        trace=("default: no role grants the tool",),
    )  # fmt: skip


def _judge(policy: Policy, granted: Effective, request: Request, columns: Columns | None) -> Judgment:
    match request.tool:
        case "code_execution" | "process" | "sandbox":
            return code.judge(granted, request.tool, request.args)
        case "filesystem":
            return files.judge(granted, request.args)
        case "web_api":
            return web.judge(granted, request.args)
        case "database":
            return database.judge(granted, request.args, columns)
        case "egress":
            return egress.judge(granted, request.args)
        case "resource":
            return resources.judge(granted, policy.compiled.apis, request.args)
        case "prompt":
            return resources.judge_prompt(granted, request.args)
    raise ValueError("no such tool")


def _together(tool: Judgment, asked: Judgment) -> Judgment:
    """The tool's judgment and that of what is asked of it: the worse one, with the latter's details."""
    denied = asked if asked.effect == "deny" and not asked.observable else None
    if denied is None and tool.effect == "deny":
        denied = tool
    if denied is None and asked.effect == "deny":
        denied = asked
    asks = tool.effect == "ask" and asked.effect == "allow"
    chosen = denied or (tool if asks or not asked.rule else asked)
    return Judgment(
        "deny" if denied else "ask" if "ask" in (tool.effect, asked.effect) else "allow",
        chosen.rule,
        chosen.reason,
        chosen.message,
        chosen.hint,
        chosen.nearest,
        asked.canonical,
        asked.limits,
        (*tool.trace, *asked.trace),
        asked.grant,
        asked.observed,
        chosen.observable,
    )


def _decision(policy: Policy, judged: Judgment, who: tuple[str, ...], *, observe: bool = False) -> Decision:
    effect, rule, reason = judged.effect, judged.rule, judged.reason
    would_deny = False
    if effect == "deny" and observe and judged.observable:
        effect, would_deny = "allow", True
    elif effect != "deny" and judged.observed:
        rule, reason, would_deny = judged.observed, "observed", True
    return Decision(
        effect,
        rule,
        reason,
        judged.message,
        policy.revision,
        hint=judged.hint,
        nearest=judged.nearest,
        would_deny=would_deny,
        canonical=judged.canonical,
        limits=judged.limits,
        trace=(*who, *judged.trace, *((f"observe: {rule} would deny",) if would_deny else ())),
        grant=None if effect == "deny" else judged.grant,
    )

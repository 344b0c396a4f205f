"""What can be read by its URI, and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sandbox_server.execution.uris import FileUri, parse, plain
from sandbox_server.execution.uris import shown as legible
from sandbox_server.policy.decision import Effect, Json
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.grants import ApiGrant
from sandbox_server.policy.judging import files, web
from sandbox_server.policy.judging.judgment import Judgment, listing, text

_LEFT_BY: Mapping[str, tuple[str, ...]] = {
    "run": ("code_execution", "process"),
    "sandbox": ("code_execution", "filesystem", "process"),
}
"""Schemes of what calls leave behind, and which tools do: whose it is, the store knows."""


def judge(granted: Effective, apis: Mapping[str, ApiGrant], args: Mapping[str, Json]) -> Judgment:
    uri = text(args, "uri")
    scheme, _, rest = uri.partition("://")
    shown: dict[str, Json] = {"uri": uri[:500]}
    if scheme == "policy":
        return Judgment("allow", "built_in.policy", "allowed", canonical=shown)
    tools = granted.tools.granted()
    by = _first([tool for tool in _LEFT_BY.get(scheme, ()) if tool in tools], granted)
    if by is not None:
        rule = {**granted.tools.allow, **granted.tools.ask}[by]
        found = Judgment("allow", rule, "allowed", canonical=shown, trace=(f"allow: {rule}",))
        # What a run has printed is the rest of an answer that was asked for already.
        return found if scheme == "run" else _asked_first(by, granted, _file(uri, granted, found))
    database, api = granted.databases.get(rest.partition("/")[0]), apis.get(rest)
    if scheme == "db" and "database" in tools and database:
        rule = database[0].rule
        found = Judgment("allow", rule, "allowed", canonical=shown, grant=database, trace=(f"allow: {rule}",))
        return _asked_first("database", granted, found)
    page = None if scheme != "api" or api is None else _page(granted, api, shown)
    if page is not None and ("web_api" in tools or (page.effect == "deny" and not page.observable)):
        return _asked_first("web_api", granted, page)
    denied = _not_granted(granted, apis, tools, shown)
    if scheme in _LEFT_BY or page is not None:
        return replace(denied, observable=True, grant=None if page is None else page.grant)
    return replace(denied, observable=True, grant=database) if scheme == "db" and database else denied


def _file(uri: str, granted: Effective, found: Judgment) -> Judgment:
    """A file that was left in a workspace: by the rules for reading it there."""
    named = parse(uri.partition("?")[0])
    if not isinstance(named, FileUri):
        return found  # it names nothing, which its reader is told
    verdict = granted.files.judge("read", f"/workspace/{plain(named.path)}")
    if not verdict.allowed:
        path = f"/workspace/{legible(named.path)}"
        return files.denied(granted, "read", path, verdict.rule, found.canonical)
    effect: Effect = "ask" if verdict.ask else "allow"
    trace = (*found.trace, f"{effect}: {verdict.rule}")
    return replace(found, effect=effect, rule=verdict.rule, observed=verdict.observed, trace=trace)


def _page(granted: Effective, api: ApiGrant, shown: Mapping[str, Json]) -> Judgment:
    judged = web.judge(granted, {"method": "GET", "url": api.url})
    return replace(judged, grant=(api, judged.grant), canonical={**judged.canonical, **shown})


def _not_granted(
    granted: Effective, apis: Mapping[str, ApiGrant], tools: tuple[str, ...], shown: Mapping[str, Json]
) -> Judgment:
    known = [f"db://{name}/schema" for name in granted.databases if "database" in tools]
    known += [f"api://{name}" for name in apis if "web_api" in tools]
    return Judgment(
        "deny",
        "default",
        "resource.not_granted",
        "this resource is not granted",
        hint=f"granted: {listing(known)}",
        nearest=listing(known),
        canonical=shown,
    )


def _first(tools: list[str], granted: Effective) -> str | None:
    """The tool by which something may be read: one that asks nobody, if there is one."""
    return next((tool for tool in tools if tool not in granted.tools.ask), next(iter(tools), None))


def _asked_first(tool: str, granted: Effective, found: Judgment) -> Judgment:
    """A resource is no way round a tool that asks."""
    if found.effect != "allow" or tool not in granted.tools.ask:
        return found
    rule = granted.tools.ask[tool]
    return replace(found, effect="ask", rule=rule, trace=(f"ask: {rule}",))


def judge_prompt(granted: Effective, args: Mapping[str, Json]) -> Judgment:
    """Prompts hold nothing that is anybody's: whoever has a role may see them."""
    return Judgment("allow", "built_in.prompts", "allowed", canonical={"name": text(args, "name")[:100]})

"""What can be read by its URI, and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sandbox_server.policy.decision import Json
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.grants import ApiGrant
from sandbox_server.policy.judging import web
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
        return found if scheme == "run" else _asked_first(by, granted, found)
    if scheme == "db" and "database" in tools and (grants := granted.databases.get(rest.partition("/")[0])):
        rule = grants[0].rule
        found = Judgment("allow", rule, "allowed", canonical=shown, grant=grants, trace=(f"allow: {rule}",))
        return _asked_first("database", granted, found)
    if scheme == "api" and "web_api" in tools and (api := apis.get(rest)) is not None:
        judged = web.judge(granted, {"method": "GET", "url": api.url})
        found = replace(judged, grant=(api, judged.grant), canonical={**judged.canonical, **shown})
        return _asked_first("web_api", granted, found)
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

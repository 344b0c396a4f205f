"""Statements of the tool `database`: the guard judges them by the rules of each role that grants the
database; one of them must allow all of a statement by itself."""

from __future__ import annotations

from collections.abc import Mapping

from sandbox_server.guards import sql
from sandbox_server.policy.decision import Json, Limit
from sandbox_server.policy.effective import Effective
from sandbox_server.policy.grants import DatabaseGrant, NamedQuery, StatementGrant
from sandbox_server.policy.judging.judgment import Judgment, listing, text
from sandbox_server.policy.judging.nearness import closest

_judges = sql.Judges()
"""Judging is pure, so remembering changes nothing but the time: milliseconds the first time."""


def judge(
    granted: Effective, args: Mapping[str, Json], columns: Mapping[str, tuple[str, ...]] | None = None
) -> Judgment:
    """`columns` of each relation of the database, `schema.relation` to names."""
    names = tuple(granted.databases)
    name = text(args, "database") or (names[0] if len(names) == 1 else "")
    grants = granted.databases.get(name, ())
    if not grants:
        near = closest(name, names)
        hint = f"databases granted: {listing(names)}"
        shown: dict[str, Json] = {"database": name[:64]}
        message = "this database is not granted" if name else "which database?"
        nearest = near[0] if near else listing(names)
        return Judgment("deny", "default", "sql.database", message, hint, nearest, shown)
    judged = [_by(grant, args, columns) for grant in grants]
    allowed = [each for each in judged if each.effect != "deny"]
    # Where one role may do it and another only if the human agrees, the human is asked.
    asking = [each for each in allowed if each.effect == "ask"]
    chosen = (asking or allowed or judged)[0]
    return Judgment(
        chosen.effect,
        chosen.rule,
        chosen.reason,
        chosen.message,
        chosen.hint,
        chosen.nearest,
        chosen.canonical,
        {**granted.quotas, **chosen.limits},
        chosen.trace,
        chosen.grant,
    )


def _by(
    grant: DatabaseGrant, args: Mapping[str, Json], columns: Mapping[str, tuple[str, ...]] | None
) -> Judgment:
    operation, written = text(args, "operation", "select"), text(args, "query")
    shown: dict[str, Json] = {"database": grant.name, "operation": operation}
    chosen = next((each for each in grant.operations if each == operation), None)
    if chosen is None:
        granted = listing(sorted(grant.operations))
        message = f"{operation[:20]} is not granted on this database"
        return Judgment("deny", grant.rule, "sql.operation", message, f"granted: {granted}", granted, shown)
    query: NamedQuery | None = None
    if written.startswith("@"):
        query = grant.queries.get(written[1:])
        if query is None:
            return _no_query(grant, written, shown)
        shown["query"] = written
    elif not grant.ad_hoc:
        return _no_query(grant, "", shown)
    statement = written if query is None else query.sql
    verdict = _judges(statement, grant.rules, operation=chosen, columns=columns)
    if not verdict.allowed:
        rule = f"{grant.rule}.{verdict.rule}" if verdict.rule else grant.rule
        shown["relations"] = tuple(verdict.relations)
        trace = (f"deny: {rule} ({verdict.reason})",)
        return Judgment(
            "deny", rule, verdict.reason, verdict.message, verdict.hint, canonical=shown, trace=trace
        )  # fmt: skip
    shown |= {"sql": verdict.sql, "relations": tuple(verdict.relations)}
    rule = f"{grant.rule}.queries.{written[1:]}" if query is not None else grant.rule
    return Judgment(
        "ask" if grant.ask else "allow",
        rule,
        "allowed",
        canonical=shown,
        limits=_limits(grant),
        trace=(f"allow: {rule}",),
        grant=StatementGrant(grant, verdict, query),
    )


def _limits(grant: DatabaseGrant) -> dict[str, Limit]:
    at = f"{grant.rule}.limits"
    limits = {key: Limit(getattr(grant, key), f"{at}.{key}") for key in ("rows", "bytes", "time")}
    if grant.rules.mode == "write":
        limits["max_affected"] = Limit(grant.max_affected, f"{grant.rule}.max_affected")
    return limits


def _no_query(grant: DatabaseGrant, written: str, shown: Mapping[str, Json]) -> Judgment:
    known = [f"@{name}" for name in grant.queries]
    near = closest(written, known)
    message = "there is no query of this name" if written else "only the named queries are granted"
    nearest = near[0] if near else listing(known)
    return Judgment(
        "deny", grant.rule, "sql.query", message, f"named queries: {listing(known)}", nearest, shown
    )  # fmt: skip

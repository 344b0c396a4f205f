"""`sandbox-server policy`: read, test, explain and compare policies. Nothing here changes one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sandbox_server.audit.verify import read_entries
from sandbox_server.cli.failures import unusable
from sandbox_server.cli.policy_lint import lint
from sandbox_server.cli.policy_test import run_tests
from sandbox_server.cli.policy_words import decision_lines, effective_lines
from sandbox_server.config import Settings
from sandbox_server.errors import ConfigError
from sandbox_server.observe.logs import visible
from sandbox_server.policy.decision import Request
from sandbox_server.policy.diff import Diff, Replay
from sandbox_server.policy.diff import diff as compare
from sandbox_server.policy.diff import replay as play
from sandbox_server.policy.engine import decide, effective
from sandbox_server.policy.json_schema import json_schema
from sandbox_server.policy.learning import learn as learn_from
from sandbox_server.policy.loader import load_policy, policy_of, read_document
from sandbox_server.policy.models import Policy
from sandbox_server.policy.records import decision_record, frozen, read_principal
from sandbox_server.policy.views import effective_view

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="Default: $SANDBOX_SERVER_POLICY or the shipped one."),
]
Claims = Annotated[
    Path | None,
    typer.Option("--as", help="JSON file of a token's claims. Default: no token."),
]


def commands() -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(help="Check, test, explain and compare policies.", no_args_is_help=True)
    group.command("lint")(lint)
    group.command("test")(run_tests)
    for command in (explain, show, diff, learn, schema):
        group.command(command.__name__)(command)
    return group


def explain(
    tool: Annotated[str, typer.Option(help="The tool that is called; also egress, resource, prompt.")],
    args: Annotated[str, typer.Option(help="Its arguments as a JSON object.")] = "{}",
    policy: PolicyFile = None,
    claims: Claims = None,
    as_json: AsJson = False,
) -> None:
    """Say what the policy decides of one call, and why: what the decision log would hold.

    Exit status 0: allowed, 1: denied or to be asked for, 2: the question or the policy can't be read.
    """
    with unusable(as_json=as_json):
        principal = read_principal(claims)
        request = Request(tool, frozen(_object(args, "--args")))
        decision = decide(_policy(policy), principal, request)
        record = decision_record(principal, request, decision, claims=principal.claims)
    if as_json:
        _print(record)
    else:
        _say(decision_lines(record))
    if decision.effect != "allow":
        raise typer.Exit(1)


def show(policy: PolicyFile = None, claims: Claims = None, as_json: AsJson = False) -> None:
    """Show all that one principal may do."""
    with unusable(as_json=as_json):
        found = effective_view(effective(_policy(policy), read_principal(claims)))
    if as_json:
        _print(found)
    else:
        _say(effective_lines(found))


def diff(
    old: Annotated[Path, typer.Argument(help="The policy as it is.")],
    new: Annotated[Path, typer.Argument(help="The policy as it is to be.")],
    replay: Annotated[
        Path | None,
        typer.Option(help="Decision log: which of its calls would be answered otherwise?"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say who gains or loses what.

    Exit status 0: nothing differs, 1: something does, 2: one does not load.
    """
    with unusable(as_json=as_json):
        before, after = load_policy(old), load_policy(new)
        found = compare(before, after)
        replayed = play(before, after, read_entries([replay])) if replay else None
    if as_json:
        _print({**asdict(found), "replay": asdict(replayed) if replayed else None})
    else:
        _say(_diff_lines(found, replayed))
    if not found.empty or (replayed and replayed.changed):
        raise typer.Exit(1)


def learn(
    decisions: Annotated[Path, typer.Argument(help="Decision log (file or directory).")],
    policy: PolicyFile = None,
    as_json: AsJson = False,
) -> None:
    """Propose the smallest addition that would allow what was denied or only observed. Read it before you
    take it: the log says what was asked for, not whether it should be allowed.

    Exit status 0: there is nothing to add, 1: there is, 2: the policy or the log can't be read.
    """
    with unusable(as_json=as_json):
        path = _path(policy)
        document = read_document(path)
        found = learn_from(policy_of(document, source=str(path)), document, read_entries([decisions]))
    if as_json:
        _print({**asdict(found), "yaml": found.yaml() if found.addition else ""})
    else:
        for left in found.left:
            typer.echo(visible(f"# stays denied: {left.who}: {left.tool}: {left.why}"))
        if found.unread:
            typer.echo(f"# {found.unread} calls were logged without what they asked for")
        if found.addition:
            typer.echo(f"# would allow {found.allowed} different calls; append to the lists of {path}")
            typer.echo(found.yaml(), nl=False)
        else:
            typer.echo("# nothing to add")
    if found.addition:
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON schema of policy files, for editors."""
    _print(json_schema())


def _policy(file: Path | None) -> Policy:
    return load_policy(_path(file))


def _path(file: Path | None) -> Path:
    return file or Settings.read().policy


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{what}: not JSON: {error}", hint="""as in '{"language": "python"}'""") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{what}: expected a JSON object", hint="""as in '{"language": "python"}'""")
    return found


def _diff_lines(found: Diff, replayed: Replay | None) -> Iterator[str]:
    for name, role in found.roles.items():
        yield f"role {name}"
        yield from (f"  gains: {each}" for each in role.gains)
        yield from (f"  loses: {each}" for each in role.loses)
        yield from (f"  {each}" for each in role.changes)
    yield from found.whole
    if found.empty:
        yield "nothing differs"
    if replayed is None:
        return
    yield f"replayed {replayed.calls} decisions, {len(replayed.changed)} kinds would change"
    for each in replayed.changed:
        yield (
            f"  {each.count} x {each.principal} {each.tool} {each.resource}: "
            f"{each.before} -> {each.after} ({each.rule})"
        )
    if replayed.unread:
        yield f"  {replayed.unread} were logged without what they asked for"


def _say(lines: Iterator[str]) -> None:
    for line in lines:
        typer.echo(visible(line))


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)

"""What `policy explain` says of a call is what the server does with it: same arguments, same decision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandbox_server.policy.decision import Request
from sandbox_server.policy.engine import decide
from sandbox_server.policy.records import decision_record, frozen
from tests.enforcement.place import place

pytestmark = pytest.mark.anyio

POLICY = """
ceilings: {memory: 256MiB, wall: 20s, pids: 64, workspace: 64MiB, output: 1MiB, cpu: 20s}
roles:
  basic:
    tools: {allow: [code_execution, sandbox, filesystem, web_api]}
    code:
      defaults: {memory: 128MiB, wall: 5s, pids: 32, workspace: 16MiB}
      languages: {javascript: {}, bash: {image: shell}}
    files:
      allow: [{path: "/workspace/**", ops: [read, write, list]}]
      deny: [{path: "/workspace/x/**", ops: [read, write, list, delete]}]
    web: {allow: [{hosts: [a.example.org]}]}
deployment: {warm: 0}
"""


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("sandbox", {"operation": "create"}),
        ("sandbox", {"operation": "create", "language": "python"}),
        ("sandbox", {"operation": "create", "limits": {"memory_mib": 200}}),
        ("sandbox", {"operation": "create", "limits": {"memory_mib": 257}}),
        ("sandbox", {"operation": "create", "limits": {"workspace_mib": 65}}),
        ("sandbox", {"operation": "create", "limits": {"pids": 65}}),
        ("sandbox", {"operation": "create", "packages": ["six"]}),
        ("sandbox", {"operation": "list"}),
        ("code_execution", {"code": "out x"}),
        ("code_execution", {"code": "out x", "language": "bash", "timeout": 20}),
        ("code_execution", {"code": "out x", "language": "bash", "timeout": 21}),
        ("code_execution", {"code": "out x", "language": "bash", "max_output": 2**21}),
        ("filesystem", {"operation": "write", "path": "a", "content": "x"}),
        ("filesystem", {"operation": "write", "path": "x/a", "content": "x"}),
        ("filesystem", {"operation": "write", "path": "./y/../x/a", "content": "x"}),
        ("filesystem", {"operation": "move", "path": "a", "to": "x/b"}),
        ("filesystem", {"operation": "read", "path": "/etc/passwd"}),
        ("web_api", {"method": "GET", "url": "https://b.example.org/"}),
        ("web_api", {"method": "DELETE", "url": "https://A.example.org/"}),
        ("database", {"query": "select 1"}),
    ],
)
async def test_the_same_call_is_decided_the_same(tmp_path: Path, tool: str, args: dict[str, Any]) -> None:
    async with place(tmp_path, POLICY) as here, here.client("2026-07-28") as client:
        policy, who = here.enforced.policy, here.enforced.local
        request = Request(tool, frozen(args))
        explained = decision_record(who, request, decide(policy, who, request))
        result = await client.call_tool(tool, args)
        (logged,) = await here.record()
    same = ("decision", "rule", "reason", "message", "hint", "nearest", "limits", "resource", "revision")
    assert {each: logged[each] for each in same} == {each: explained[each] for each in same}
    assert result.is_error or explained["decision"] == "allow"

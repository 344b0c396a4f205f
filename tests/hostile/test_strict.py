"""`seccomp: strict` as a program meets it: less of the kernel, and ordinary programs still work."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from uuid import uuid4

import pytest

from sandbox_server.execution.models import Isolation
from tests.hostile.conftest import Run
from tests.hostile.lab import Lab, open_lab, strict_grants

ATTEMPTS = """
import fcntl, socket
def say(name, answer): print(name, answer)
for name in "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK":
    say(name, attempt(socket.socket, getattr(socket, name), socket.SOCK_RAW if name in ("AF_NETLINK", "AF_PACKET") else socket.SOCK_SEQPACKET if name == "AF_ALG" else socket.SOCK_STREAM))
say("AF_UNSPEC", attempt(socket.socket, 0, socket.SOCK_STREAM))
say("AF_UNIX", attempt(socket.socket, socket.AF_UNIX))
say("socketpair", attempt(socket.socketpair))
r, w = os.pipe(); r2, w2 = os.pipe(); os.write(w, b"x")
say("splice", attempt(os.splice, r, w2, 1))
say("tee", call("tee", r2, w, 1, 0))
say("shmget", call("shmget", 0, 4096, 0o1600))
say("semget", call("semget", 0, 1, 0o1600))
say("msgget", call("msgget", 0, 0o1600))
x86 = os.uname().machine == "x86_64"
say("mq_open", call("syscall", 240 if x86 else 180, b"q", 0o102, 0o600, None))
say("futex_wake", call("syscall", 454, ctypes.byref(ctypes.c_int()), ctypes.c_ulong(1), 1, 2))
# The number in the low half alone, and with bits above it, which the kernel ignores.
master, slave = os.openpty()
for name, number in ("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C), ("TIOCGWINSZ", 0x5413):
    for high in 0, 1 << 32:
        say(name, call("syscall", 16 if x86 else 29, slave, ctypes.c_ulong(number | high), ctypes.create_string_buffer(8)))
for high in 0, 1 << 32:
    say("PR_SET_SECCOMP", call("syscall", 157 if x86 else 167, ctypes.c_ulong(22 | high), 2, 0, 0, 0))
say("seccomp", call("syscall", 317 if x86 else 277, 1, 0, None))
say("PR_SET_NAME", call("prctl", 15, b"name", 0, 0, 0))
"""
REFUSED = {
    **dict.fromkeys(
        ("AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK", "AF_UNSPEC"), "EAFNOSUPPORT"
    ),
    **dict.fromkeys(("splice", "tee", "shmget", "semget", "msgget", "mq_open", "futex_wake"), "ENOSYS"),
    **dict.fromkeys(("TIOCSTI", "TIOCLINUX", "PR_SET_SECCOMP", "seccomp"), "EPERM"),
}
STILL = dict.fromkeys(("AF_UNIX", "socketpair", "TIOCGWINSZ", "PR_SET_NAME"), "allowed")


@pytest.fixture(scope="module")
async def strict(lab: Lab) -> AsyncIterator[Lab]:
    """After the lab that lives longer: their tasks end in the opposite order."""
    async with open_lab(strict_grants(), warm=0) as lab:
        yield lab


@pytest.fixture
async def strict_cell(strict: Lab) -> AsyncIterator[Run]:
    connection = uuid4().hex
    yield partial(strict.run, connection=connection, wall=20)
    await strict.manager.close_connection(connection)


def answers(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        name, answer = line.split()
        found.setdefault(name, set()).add(answer)
    return found


async def test_strict_refuses_networks_shared_memory_pipes_of_pages_and_terminals(strict: Lab) -> None:
    """Beyond the list."""
    result = await strict.run(ATTEMPTS)
    assert result.isolation == Isolation("runc", "container", "strict")
    assert answers(result.stdout.text) == {name: {answer} for name, answer in {**REFUSED, **STILL}.items()}


async def test_most_of_it_is_allowed_without_strict(run: Run) -> None:
    """Beyond the list. Otherwise the test above would prove nothing."""
    result = await run(ATTEMPTS)
    assert result.isolation.seccomp == "default"
    found = answers(result.stdout.text)
    differs = {name for name, answer in REFUSED.items() if found[name] != {answer}}
    assert differs >= {
        "AF_INET", "AF_INET6", "AF_NETLINK", "splice", "tee", "shmget", "semget", "msgget", "PR_SET_SECCOMP", "seccomp",
    }  # fmt: skip
    assert {name for name in STILL if found[name] != {"allowed"}} == set()


PROGRAMS = {
    "subprocess": "import subprocess as s; print(s.check_output('echo a | tee b | cat', shell=True).decode(), end='')",
    "threads": "import concurrent.futures as f\nwith f.ThreadPoolExecutor(4) as e: print(sum(e.map(abs, range(9))))",
    "multiprocessing": "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: print(p.map(abs, [-1]))",
    "manager": "import multiprocessing as m\nwith m.Manager() as n: print(n.list([1]))",
    "shared memory": "from multiprocessing import shared_memory as m\nb = m.SharedMemory(create=True, size=9); b.close(); b.unlink(); print(1)",
    "asyncio": "import asyncio\nasync def f():\n  p = await asyncio.create_subprocess_exec('/bin/true'); print(await p.wait())\nasyncio.run(f())",
    "copying": "import shutil\nopen('a', 'w').write('x' * 99); shutil.copy('a', 'b'); print(len(open('b').read()))",
    "sqlite": "import sqlite3; d = sqlite3.connect('d'); d.execute('create table t(a)'); d.commit(); print(1)",
    "pandas": "import pandas as p; print(p.DataFrame({'a': [1, 2]}).a.sum())",
    "plot": "import matplotlib.pyplot as p; p.plot([1, 2]); p.savefig('a.png'); print(1)",
    "files": "import os, tempfile; print(len(os.listdir('/usr')) > 3, tempfile.TemporaryFile().write(b'x'))",
}


@pytest.mark.parametrize("name", PROGRAMS)
async def test_ordinary_python_programs_work_under_strict(strict_cell: Run, name: str) -> None:
    """Beyond the list."""
    result = await strict_cell(PROGRAMS[name], bare=True)
    assert (result.outcome, result.stderr.text) == ("ok", "")
    assert result.stdout.text


async def test_cells_of_every_language_keep_their_state_under_strict(strict_cell: Run) -> None:
    """Beyond the list."""
    node = "const cp = require('child_process'), w = require('worker_threads'); var n = 1; cp.execFileSync('/bin/echo', ['hi']).toString()"
    assert (await strict_cell("n = 1", bare=True)).session.state == "kept"
    assert (await strict_cell("print(n)", bare=True)).stdout.text == "1\n"
    for first, then, language in (
        (node, "console.log(n + 1)", "javascript"),
        (
            "n=2",
            "cp /etc/hostname a; cat a | sort | head -1 >b; wc -l <b | tee c >/dev/null; echo $n",
            "bash",
        ),
        ("const t: number = 2; console.log(t)", "console.log(t)", "typescript"),
    ):
        begun = await strict_cell(first, language)
        assert (begun.outcome, begun.session.state) == ("ok", "kept"), begun.stderr.text
        result = await strict_cell(then, language)
        assert (result.outcome, result.stdout.text) == ("ok", "2\n"), result.stderr.text


async def test_a_strict_sandbox_is_used_again_when_it_is_clean(strict: Lab) -> None:
    """Beyond the list."""
    who = uuid4().hex
    await strict.run("open('left', 'w')", reuse_for=who)
    result = await strict.run("print(os.listdir('/workspace'))", reuse_for=who)
    assert (result.timings.reused, result.stdout.text) == (True, "[]\n")

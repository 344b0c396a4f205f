"""The seccomp profile as a program in a sandbox meets it: what counts is what the kernel says there."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from sandbox_server.engines.docker import DockerEngine
from sandbox_server.engines.profile import Profile, SandboxLimits
from tests.engines.driver import Driver, Finished

# Numbers of the same calls on both architectures that we support: x86_64, aarch64.
NUMBERS = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "fanotify_init": (300, 262),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "syslog": (103, 116),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "mbind": (237, 235),
    "move_pages": (279, 239),
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),
    "memfd_secret": (447, 447),
    "vmsplice": (278, 75),
    "landlock_create_ruleset": (444, 444),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "cachestat": (451, 451),
    "map_shadow_stack": (453, 453),
}
X86_ONLY = {"modify_ldt": 154, "iopl": 172, "ioperm": 173, "uselib": 134, "ustat": 136, "sysfs": 139}
IS_X86 = platform.machine() == "x86_64"
CALLS = {name: numbers[0 if IS_X86 else 1] for name, numbers in NUMBERS.items()} | (
    X86_ONLY if IS_X86 else {}
)

SYSCALL = """
import ctypes, errno, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return result, errno.errorcode.get(ctypes.get_errno(), "") if result < 0 else ""
"""


@pytest.fixture
async def sandbox(docker_engine: DockerEngine) -> AsyncIterator[Driver]:
    container = await docker_engine.start(
        Profile("python", SandboxLimits(pids=128)), deadline=time.time() + 600
    )
    runner = Driver(container)
    with anyio.fail_after(60):
        await runner.greet()
        yield runner


async def ask(sandbox: Driver, code: str) -> object:
    """What the code printed, as JSON."""
    finished = await sandbox.run(SYSCALL + code)
    assert finished.report["exit_code"] == 0, finished.stderr
    return json.loads(finished.stdout)


async def test_the_filter_is_on(sandbox: Driver) -> None:
    status = await ask(sandbox, "print(json.dumps(open('/proc/self/status').read()))")
    assert "Seccomp:\t2\n" in str(status)
    assert "NoNewPrivs:\t1\n" in str(status)


async def test_calls_that_reach_other_processes_or_the_kernels_depths_are_refused(sandbox: Driver) -> None:
    # Arguments of zero: a call that the filter lets through fails with EFAULT, EBADF, EINVAL ...
    answers = await ask(sandbox, f"print(json.dumps({{n: syscall(i, *[0]*6) for n, i in {CALLS}.items()}}))")
    assert isinstance(answers, dict)
    assert {name: answer for name, answer in answers.items() if answer[1] not in ("EPERM", "ENOSYS")} == {}


async def test_clone3_and_io_uring_look_absent_so_that_libraries_fall_back(sandbox: Driver) -> None:
    names = ["clone3", "io_uring_setup"]
    answers = await ask(sandbox, f"print(json.dumps([syscall({CALLS}[n], *[0]*6)[1] for n in {names}]))")
    assert answers == ["ENOSYS", "ENOSYS"]


SOCKETS = """
import socket
def attempt(family, kind=socket.SOCK_DGRAM, protocol=0):
    try:
        socket.socket(family, kind, protocol).close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
"""


async def test_only_local_internet_and_route_sockets_exist(sandbox: Driver) -> None:
    answers = await ask(sandbox, SOCKETS + "print(json.dumps([attempt(f) for f in range(64)]))")
    assert isinstance(answers, list)
    refused = {family for family, answer in enumerate(answers) if answer == "EAFNOSUPPORT"}
    # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK; refused are AF_ALG 38, AF_VSOCK 40, AF_PACKET 17 ...
    assert set(range(64)) - refused == {1, 2, 10, 16}
    assert [answers[family] for family in (1, 2, 10, 16)] == ["ok"] * 4


@pytest.mark.parametrize("family", [2, 10])
async def test_of_internet_sockets_only_tcp_and_udp_exist(sandbox: Driver, family: int) -> None:
    attempts = [
        (1, 0),
        (1, 6),
        (2, 0),
        (2, 17),
        (3, 1),
        (3, 255),
        (5, 132),
        (1, 132),
        (1, 262),
        (6, 33),
        (2, 1),
    ]
    answers = await ask(sandbox, SOCKETS + f"print(json.dumps([attempt({family}, *a) for a in {attempts}]))")
    assert isinstance(answers, list)
    assert answers[:4] == ["ok"] * 4
    assert set(answers[4:]) <= {"EPERM", "EPROTONOSUPPORT"}


async def test_of_netlink_only_route_exists(sandbox: Driver) -> None:
    audit, xfrm, netfilter, generic = 9, 6, 12, 16
    protocols = [0, audit, xfrm, netfilter, generic]
    answers = await ask(sandbox, SOCKETS + f"print(json.dumps([attempt(16, 3, p) for p in {protocols}]))")
    assert answers == ["ok"] + ["EPROTONOSUPPORT"] * 4


async def test_a_family_is_not_hidden_by_bits_above_an_int(sandbox: Driver) -> None:
    number = 41 if IS_X86 else 198
    hidden = [38 | 1 << 32, 40 | 1 << 40, 17 | 1 << 33]
    answers = await ask(sandbox, f"print(json.dumps([syscall({number}, f, 5, 0)[1] for f in {hidden}]))")
    assert answers == ["EAFNOSUPPORT"] * 3


async def test_socket_pairs_are_local_ones(sandbox: Driver) -> None:
    code = """
import socket
def pair(family):
    try:
        for end in socket.socketpair(family): end.close()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
print(json.dumps([pair(f) for f in (1, 2, 30, 38)]))
"""
    assert await ask(sandbox, code) == ["ok"] + ["EAFNOSUPPORT"] * 3


async def test_no_namespace_can_be_made(sandbox: Driver) -> None:
    clone = 56 if IS_X86 else 220
    flags = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
    # Were one let through, a child would go on with this program: it must end at once.
    code = f"""
def clone(flags):
    result, name = syscall({clone}, flags | 17, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return name
print(json.dumps([clone(f) for f in {flags}]))
"""
    assert await ask(sandbox, code) == ["EPERM"] * len(flags)


async def test_personality_keeps_address_space_randomisation_on(sandbox: Driver) -> None:
    personality = 135 if IS_X86 else 92
    wanted = [0xFFFFFFFF, 0, 0x0040000, 0x0400000, 8]
    answers = await ask(sandbox, f"print(json.dumps([syscall({personality}, p)[1] for p in {wanted}]))")
    assert answers == ["", "", "EPERM", "EPERM", "EPERM"]


async def test_fifos_and_sockets_can_be_made_but_no_devices(sandbox: Driver) -> None:
    code = """
import socket, stat
def make(kind):
    try:
        os.mknod(f"/workspace/{kind:o}", kind | 0o600, os.makedev(1, 3))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"
os.mkfifo("/workspace/fifo")
socket.socket(socket.AF_UNIX).bind("/workspace/socket")
print(json.dumps([make(k) for k in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)]))
"""
    assert await ask(sandbox, code) == ["ok", "ok", "EPERM", "EPERM"]


async def test_flushing_the_hosts_disks_is_a_no_op_that_succeeds(sandbox: Driver) -> None:
    sync, syncfs = (162, 306) if IS_X86 else (81, 267)
    # syncfs of a descriptor that isn't open would be EBADF: success proves that nothing was done.
    answers = await ask(sandbox, f"print(json.dumps([syscall({sync}), syscall({syncfs}, 9999)]))")
    assert answers == [[0, ""], [0, ""]]


INT80 = """
import ctypes, mmap
# mov eax, 20 (getpid on i386); int 0x80; ret
code = bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3])
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(code)
print("about to call", flush=True)
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""


@pytest.mark.skipif(not IS_X86, reason="int 0x80 exists on x86 only")
async def test_32_bit_calls_kill_the_program(sandbox: Driver) -> None:
    finished = await sandbox.run(INT80)
    assert finished.stdout == "about to call\n"
    assert finished.report["signal"] == 31  # SIGSYS


@pytest.mark.skipif(not IS_X86, reason="x32 exists on x86 only")
async def test_x32_calls_are_not_a_way_around(sandbox: Driver) -> None:
    finished = await sandbox.run(SYSCALL + "print(syscall(0x40000000 + 41, 38, 5, 0))")
    died = finished.report["signal"] == 31
    assert died or "ENOSYS" in finished.stdout or "EPERM" in finished.stdout


PROGRAMS = {
    "threads": "import threading as t\nx=[t.Thread(target=print, args=(1,)) for _ in range(20)]\n"
    "[i.start() for i in x]\n[i.join() for i in x]",
    "multiprocessing": "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p:\n"
    "    assert p.map(abs, [-1, 2]) == [1, 2]",
    "subprocess": "import subprocess as s\nassert s.check_output(['/bin/echo', 'a']) == b'a\\n'",
    "asyncio": "import asyncio\nasync def f():\n  p = await asyncio.create_subprocess_exec('/bin/true')\n"
    "  assert await p.wait() == 0\nasyncio.run(f())",
    "local server": "import socket as s\na=s.create_server(('127.0.0.1', 0))\n"
    "c=s.create_connection(a.getsockname())\na.accept()[0].send(b'x')\nassert c.recv(1) == b'x'",
    "sqlite": "import sqlite3\nd=sqlite3.connect('/workspace/d')\nd.execute('create table t(a)')\nd.commit()",
    "shared memory": "from multiprocessing import shared_memory as m\nb=m.SharedMemory(create=True, size=9)\n"
    "b.close()\nb.unlink()",
    "numpy": "import numpy as n\nassert (n.ones((50, 50)) @ n.ones((50, 50)))[0, 0] == 50",
    "plot": "import matplotlib.pyplot as p\np.plot([1, 2])\np.savefig('/workspace/a.png')",
    "scikit-learn": "from sklearn.cluster import KMeans\nKMeans(2, n_init=1).fit([[0.], [1.], [9.]])",
    "virtual environment": "import venv\nvenv.create('/workspace/v')",
    "interfaces": "import socket\nassert socket.if_nameindex() == [(1, 'lo')]",
}


@pytest.mark.parametrize("name", PROGRAMS)
async def test_ordinary_python_programs_work(sandbox: Driver, name: str) -> None:
    finished = await sandbox.run(PROGRAMS[name])
    assert finished.report["exit_code"] == 0, finished.stderr


async def spawn(engine: DockerEngine, image: str, argv: list[str], code: str) -> Finished:
    container = await engine.start(Profile(image), deadline=time.time() + 600)
    runner = Driver(container)
    with anyio.fail_after(60):
        await runner.greet()
        return await runner.run(code, mode="spawn", file=f"main.{argv[0][-2:]}", argv=argv)


NODE = """
const fs = require('fs'), net = require('net'), cp = require('child_process')
const { Worker } = require('worker_threads')
fs.writeFileSync('/workspace/a', cp.execFileSync('/bin/echo', ['hi']))
const server = net.createServer(s => s.end('x')).listen(0, '127.0.0.1', () =>
  net.connect(server.address().port, '127.0.0.1').on('data', () => {
    server.close()
    new Worker('process.stdout.write("done")', { eval: true })
  }))
"""
SHELL = """
set -e
cd /workspace
mkfifo p; echo x > p & read line < p; test "$line" = x
git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m m
printf '{"a": 1}' | jq -c .a
seq 1 1000 | sort -rn | head -1
tar cf ../r.tar . && gzip ../r.tar && sync
"""


async def test_node_works(docker_engine: DockerEngine) -> None:
    finished = await spawn(docker_engine, "node", ["/usr/bin/node", "{file}"], NODE)
    assert (finished.stdout, finished.report["exit_code"]) == ("done", 0), finished.stderr


async def test_bash_git_and_friends_work(docker_engine: DockerEngine) -> None:
    finished = await spawn(docker_engine, "shell", ["/bin/bash", "{file}"], SHELL)
    assert (finished.stdout, finished.report["exit_code"]) == ("1\n1000\n", 0), finished.stderr

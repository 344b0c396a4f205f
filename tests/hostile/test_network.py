"""Programs that look for a way out by network. Numbers: see README.md."""

# ruff: noqa: E501 - a program in a string keeps its own lines
from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from tests.hostile.conftest import Run
from tests.hostile.lab import Lab

OUTSIDE = ["1.1.1.1:53", "8.8.8.8:443", "169.254.169.254:80", "172.17.0.1:2375", "172.17.0.2:80", "10.0.0.1:80",
           "192.168.0.1:80", "100.100.100.200:80", "[2606:4700:4700::1111]:53", "[fd00:ec2::254]:80", "[fe80::1]:80",
           "224.0.0.1:80", "255.255.255.255:67"]  # fmt: skip


def sent() -> dict[str, int]:
    """Bytes that each interface of the containers' bridges has carried, by the host's counters."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    counts = {name.strip(): fields.split() for name, _, fields in (line.partition(":") for line in lines)}
    return {
        name: int(fields[0]) for name, fields in counts.items() if name.startswith(("docker", "br-", "veth"))
    }


async def test_no_address_can_be_reached_and_nothing_is_sent(cell: Run, lab: Lab, mark: str) -> None:
    """61. Also by the host's view of the sandbox's own network: there is no interface but lo."""
    views: list[str] = []

    def look(_: object) -> None:
        [process] = lab.named(mark)
        views.append(Path(f"/proc/{process.pid}/net/dev").read_text())

    code = f"""
import socket
rename({mark!r})
for address in {OUTSIDE!r}:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
        with socket.socket(family, kind) as s:
            s.settimeout(1)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            print(address, attempt(s.connect, (host.strip("[]"), int(port))))
print("done", flush=True)
time.sleep(0.2)
"""
    before = sent()
    result = await cell(code, on_output=look)
    *answers, done = result.stdout.text.splitlines()
    assert done == "done"
    assert len(answers) == 2 * len(OUTSIDE)
    allowed = {"ENETUNREACH", "EADDRNOTAVAIL", "EINVAL"}
    assert [line for line in answers if line.split()[-1] not in allowed] == []
    [interface] = views[-1].splitlines()[2:]
    assert interface.split(":")[0].strip() == "lo"
    assert sent() == before


async def test_names_are_not_looked_up_anywhere_and_fail_fast(cell: Run) -> None:
    """62."""
    code = """
import socket
for name in "example.com", "localhost.example", "metadata.google.internal", "host.docker.internal", "a" * 63 + ".evil.example":
    begin = time.monotonic()
    try: print(socket.getaddrinfo(name, 80))
    except socket.gaierror as error: print("refused", time.monotonic() - begin < 1)
print([line.split(":")[0].strip() for line in open("/proc/net/dev")][2:], open("/etc/resolv.conf").read().strip())
"""
    before = sent()
    result = await cell(code)
    assert result.stdout.text.splitlines() == ["refused True"] * 5 + ["['lo'] "]
    assert sent() == before


async def test_two_sandboxes_hold_the_same_port_at_once(lab: Lab, run: Run) -> None:
    """63, 64."""
    serve = """
import socket
server = socket.create_server(("127.0.0.1", 8080))
server6 = socket.create_server(("::1", 8080), family=socket.AF_INET6)
threading.Thread(target=lambda: server.accept()[0].sendall(b"mine"), daemon=True).start()
print("serves", flush=True)
os.read(0, 1) if not SECOND else None
print(socket.create_connection(("127.0.0.1", 8080)).recv(9))
print(attempt(socket.create_server, ("localhost", 8080)))
time.sleep(HOLD)
"""
    first_serves, second_done = anyio.Event(), anyio.Event()
    outcomes: dict[str, list[str]] = {}

    async def first() -> None:
        code = f"SECOND, HOLD = True, 1.0\n{serve}"
        result = await run(code, on_output=lambda _: first_serves.set())
        outcomes["first"] = result.stdout.text.splitlines()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await first_serves.wait()
        result = await run(f"SECOND, HOLD = True, 0\n{serve}")
        outcomes["second"] = result.stdout.text.splitlines()
        second_done.set()
        assert "first" not in outcomes  # or they were not there at once
    assert outcomes["first"] == outcomes["second"] == ["serves", "b'mine'", "EADDRINUSE"]


async def test_families_that_have_opened_kernels_before_are_refused(probe: Run) -> None:
    """65."""
    code = """
import socket
families = {"AF_ALG": 38, "AF_VSOCK": 40, "AF_PACKET": 17, "AF_XDP": 44, "AF_KEY": 15, "AF_RDS": 21, "AF_TIPC": 30,
            "AF_CAN": 29, "AF_BLUETOOTH": 31, "AF_NFC": 39, "AF_QIPCRTR": 42, "AF_SMC": 43, "AF_AX25": 3, "AF_X25": 9,
            "AF_PPPOX": 24, "AF_LLC": 26, "AF_KCM": 41, "AF_IEEE802154": 36, "AF_PHONET": 35, "AF_MCTP": 45}
for name, family in families.items():
    for kind in 1, 2, 3, 5:
        print(name, kind, attempt(socket.socket, family, kind, 0))
for protocol in range(1, 32):
    print("netlink", protocol, attempt(socket.socket, 16, 3, protocol))
for family in 2, 10:
    for kind, protocol in (3, 1), (3, 6), (3, 255), (3, 58), (2, 1), (2, 58), (1, 132), (5, 132), (1, 262), (6, 33):
        print("internet", kind, protocol, attempt(socket.socket, family, kind, protocol))
x86 = os.uname().machine == "x86_64"
print("socketpair", attempt(lambda: socket.socketpair(40, 1)))
print("io_uring", call("syscall", 425, 8, ctypes.create_string_buffer(256)))
# The family of a socket is an int: its upper half must not hide one.
print("hidden", call("syscall", 41 if x86 else 198, ctypes.c_uint64(38 | 1 << 32), 5, 0))
"""
    lines = (await probe(code)).stdout.text.splitlines()
    assert len(lines) == 20 * 4 + 31 + 20 + 3
    refused = {"EAFNOSUPPORT", "EPERM", "EPROTONOSUPPORT", "ENOSYS", "ESOCKTNOSUPPORT"}
    assert [line for line in lines if line.split()[-1] not in refused] == []


@pytest.fixture
def abstract_listener() -> Iterator[str]:
    """An abstract socket of the host, such as containerd's shim once had."""
    name = "\0sandbox-test-listener"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        yield name


async def test_no_socket_of_the_host_is_there(probe: Run, abstract_listener: str) -> None:
    """66."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(abstract_listener)  # the host itself gets through
    code = f"""
import socket
for path in ({abstract_listener!r}, "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
             "/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", "/run/systemd/private", "/dev/log",
             "/run/podman/podman.sock", "/run/crio/crio.sock", "/tmp/.X11-unix/X0", "/run/user/0/bus"):
    with socket.socket(socket.AF_UNIX) as s:
        print(attempt(s.connect, path))
print(open("/proc/net/unix").read().count("\\n") < 4)
"""
    *answers, few = (await probe(code)).stdout.text.splitlines()
    assert answers == ["ECONNREFUSED"] + ["ENOENT"] * 11
    assert few == "True"


I386 = {
    # int 0x80 from 64-bit code: socketcall(SYS_SOCKET, [AF_ALG, SOCK_SEQPACKET, 0])
    "socketcall": "b8 66 00 00 00 bb 01 00 00 00 89 f9 cd 80 48 98 c3",
    # getpid, which every filter that knows i386 allows
    "getpid": "b8 14 00 00 00 cd 80 48 98 c3",
    # keyctl
    "keyctl": "b8 20 01 00 00 31 db 31 c9 cd 80 48 98 c3",
}
X32 = "b8 27 00 00 40 0f 05 c3"  # x32 getpid: the native number with bit 30


if platform.machine() == "x86_64":  # other architectures have no such second door

    @pytest.mark.parametrize("code", [*I386.values(), X32], ids=[*I386, "x32"])
    async def test_system_calls_of_another_architecture_are_refused(run: Run, code: str) -> None:
        """67."""
        program = f"""
import mmap
area = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
area[:{len(bytes.fromhex(code))}] = bytes.fromhex({code!r})
arguments = (ctypes.c_uint32 * 3)(38, 5, 0)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
assert address < 1 << 32
print(errno.errorcode[-ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(address)(ctypes.addressof(arguments) & 0xFFFFFFFF)])
"""
        result = await run(program)
        assert result.outcome in ("ok", "signal")
        if result.outcome == "ok":
            assert result.stdout.text.strip() in ("ENOSYS", "EPERM")
        else:
            assert result.signal in ("SIGSYS", "SIGSEGV")

    async def test_a_32_bit_executable_does_not_start(run: Run) -> None:
        """67. exit(7) as an ELF32 file, by int 0x80."""
        code = bytes.fromhex("b801000000bb07000000cd80")
        header = (
            b"\x7fELF\1\1\1"
            + bytes(9)
            + bytes.fromhex(
                "0200 0300 01000000 54800408 34000000 00000000 00000000 3400 2000 0100 0000 0000 0000".replace(
                    " ", ""
                )
            )
        )
        segment = (
            bytes.fromhex("01000000 00000000 00800408 00800408".replace(" ", ""))
            + (0x54 + len(code)).to_bytes(4, "little") * 2
            + bytes.fromhex("05000000 00100000".replace(" ", ""))
        )
        elf = header + segment + code
        path = Path("/proc/self/fd")
        assert path.exists()
        result = await run(
            f"open('x', 'wb').write({elf!r})\nos.chmod('x', 0o755)\nimport subprocess\n"
            "try: print(subprocess.run(['./x']).returncode)\nexcept OSError as error: print(errno.errorcode[error.errno])"
        )
        assert result.stdout.text.strip() in ("ENOEXEC", "EPERM", "-31", "-11", "-9")

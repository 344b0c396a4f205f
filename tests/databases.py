"""Real PostgreSQL and MariaDB servers for the tests, each in a temporary directory of its own.

Both listen on a socket in that directory and on a free loopback port, run as an unprivileged user and end
with the test session; a server of the machine is neither used nor touched. Without the programs the tests
fail, they never skip: `make test` installs them.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Server:
    """A running server and its almighty user."""

    host: str
    """Of the TCP port; the socket is in `directory`."""
    port: int
    socket: str
    user: str
    password: str = field(repr=False)
    database: str
    directory: Path
    """Readable by the server's own user: a place for files that it must not give away."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """PostgreSQL; the superuser `postgres` and the database `postgres`."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """MariaDB; the user `root` with all privileges and the database `app`."""
    with _place("mysql") as (place, user):
        yield from _mariadb(place, user)


@contextmanager
def postgres_server() -> Iterator[Server]:
    """For who is no test: the benchmark."""
    with _place("postgres") as (place, user):
        yield from _postgres(place, user)


def _postgres(place: Path, user: str | None) -> Iterator[Server]:
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=None)
    if binaries is None:
        pytest.fail("these tests need PostgreSQL: apt-get install postgresql (make test does)", pytrace=False)
    port, password, data = _free_port(), secrets.token_hex(8), place / "data"
    (place / "password").write_text(password)
    _own(place / "password", user)
    _run(
        [
            binaries.with_name("initdb"), "-D", data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8",
            "--no-sync", "--auth=scram-sha-256", f"--pwfile={place / 'password'}",
        ],
        user,
    )  # fmt: skip
    settings = {
        "unix_socket_directories": place, "listen_addresses": "127.0.0.1", "port": port,
        "fsync": "off", "full_page_writes": "off", "max_connections": 50, "shared_buffers": "32MB",
    }  # fmt: skip
    command = [binaries, "-D", data, *(f"--{name}={value}" for name, value in settings.items())]
    server = Server("127.0.0.1", port, f"{place}/.s.PGSQL.{port}", "postgres", password, "postgres", place)
    probe = [binaries.with_name("pg_isready"), "-q", "-h", place, "-p", str(port)]
    with _serving(command, user, place / "log", lambda: _answers(probe)):
        yield server


def _mariadb(place: Path, user: str | None) -> Iterator[Server]:
    daemon = shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if daemon is None:
        pytest.fail(
            "these tests need MariaDB: apt-get install mariadb-server (make test does)", pytrace=False
        )
    port, password, data = _free_port(), secrets.token_hex(8), place / "data"
    unix = place / "socket"
    first = place / "first.sql"
    first.write_text(  # one statement a line
        f"ALTER USER root@localhost IDENTIFIED BY '{password}';\n"
        f"CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL PRIVILEGES ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
        "CREATE DATABASE IF NOT EXISTS app CHARACTER SET utf8mb4;\n"
    )
    _own(first, user)
    _run(
        [
            "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ],
        user,
    )  # fmt: skip
    command = [
        daemon, "--no-defaults", f"--datadir={data}", f"--socket={unix}", f"--port={port}",
        "--bind-address=127.0.0.1", f"--init-file={first}", f"--pid-file={place / 'pid'}",
        "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin",
        "--character-set-server=utf8mb4", "--skip-name-resolve",
    ]  # fmt: skip
    # Not `ping`: that is content with a refused password, too, before the first statements have set it.
    probe = ["mariadb", "--no-defaults", f"--socket={unix}", "-uroot", f"-p{password}", "-e", "USE app"]
    with _serving(command, user, place / "log", lambda: _answers(probe)):
        yield Server("127.0.0.1", port, str(unix), "root", password, "app", place)


@contextmanager
def _place(account: str) -> Iterator[tuple[Path, str | None]]:
    """A short-named directory (it holds a socket) that `account` owns, where we are root."""
    user = account if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="sbx-db-", dir="/tmp", ignore_cleanup_errors=True) as name:
        _own(Path(name), user)
        yield Path(name), user


def _own(path: Path, user: str | None) -> None:
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


@contextmanager
def _serving(
    command: Sequence[object], user: str | None, log: Path, ready: Callable[[], bool]
) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, **_as(user))
        try:
            _wait(process, log, ready)
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
        pytest.fail(f"{process.args} does not start:\n{log.read_text()[-3000:]}", pytrace=False)


def _answers(probe: Sequence[object]) -> bool:
    return subprocess.run([str(part) for part in probe], capture_output=True).returncode == 0


def _run(command: Sequence[object], user: str | None) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **_as(user))
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"


def _as(user: str | None) -> dict[str, object]:
    return {"cwd": "/"} if user is None else {"cwd": "/", "user": user, "group": user, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

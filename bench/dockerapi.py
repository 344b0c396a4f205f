"""The Docker Engine with nothing between: HTTP on its socket, from the standard library.

The raw figures must not carry the cost of a client library, ours or another's.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from typing import Any

STREAM_HEADER = struct.Struct(">BxxxL")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class DockerApi:
    """One kept connection: for one thread at a time."""

    def __init__(self) -> None:
        host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
        if not host.startswith("unix://"):
            raise SystemExit(f"bench: DOCKER_HOST={host}: only a unix:// socket can be measured raw")
        self.path = host.removeprefix("unix://")
        self._connection = _UnixConnection(self.path)

    def json(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to one request. Raises RuntimeError with the engine's words."""
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {answer.decode(errors='replace')[:300]}")
        return json.loads(answer) if answer.strip() else None

    def create(self, payload: dict[str, Any], name: str) -> str:
        return str(self.json("POST", f"/containers/create?name={name}", payload)["Id"])

    def start(self, container: str) -> None:
        self.json("POST", f"/containers/{container}/start")

    def remove(self, container: str) -> None:
        self.json("DELETE", f"/containers/{container}?force=1&v=1")

    def pids(self, container: str) -> list[int]:
        """Every process in it, by the host's numbers; none if it has ended meanwhile."""
        try:
            answer = self.json("GET", f"/containers/{container}/top")
        except RuntimeError:
            return []
        column = answer["Titles"].index("PID")
        return [int(process[column]) for process in answer["Processes"]]

    def labelled(self, label: str, *, running: bool = False) -> list[str]:
        filters: dict[str, list[str]] = {"label": [label]}
        if running:
            filters["status"] = ["running"]
        query = json.dumps(filters, separators=(",", ":"))
        found = self.json("GET", f"/containers/json?all=1&filters={query}")
        return [each["Id"] for each in found]

    def attach(self, container: str) -> Attached:
        return Attached(self.path, container)

    def close(self) -> None:
        self._connection.close()


class Attached:
    """A container's stdin and stdout as a blocking socket."""

    def __init__(self, path: str, container: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(path)
        self._socket.sendall(
            f"POST /containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\n"
            "Host: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb", buffering=256 * 1024)
        if b" 101 " not in self._file.readline():
            raise RuntimeError("the engine refuses to attach")
        while self._file.readline().strip():
            pass

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        """The next piece of stdout; b"" at the end. What came on stderr is an error."""
        head = self._file.read(STREAM_HEADER.size)
        if len(head) < STREAM_HEADER.size:
            return b""
        kind, length = STREAM_HEADER.unpack(head)
        piece: bytes = self._file.read(length)
        if kind == 2:
            raise RuntimeError(f"the container complains: {piece.decode(errors='replace')[:300]}")
        return piece

    def close(self) -> None:
        self._file.close()
        self._socket.close()

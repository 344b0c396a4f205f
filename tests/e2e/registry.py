"""A small site with all that tools ask for: pages, a git repository, a Python index and an npm registry."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.abc import ByteStream

WHEEL = "demo_wheel-1.0-py3-none-any.whl"
SDIST = "demo-source-1.0.tar.gz"
COMMIT = "1234567890123456789012345678901234567890"


def wheel() -> bytes:
    """A package of one module that says 42."""
    info = "demo_wheel-1.0.dist-info"
    files = {
        "demo_wheel.py": "answer = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: demo-wheel\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},{_digest(text)},{len(text)}\n" for name, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return data.getvalue()


def _digest(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def archive(root: str, **files: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{root}/{name.replace('__', '.')}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def sdist() -> bytes:
    """Whose build leaves a mark: that it ran."""
    setup = "open('/workspace/built', 'w').close()\nimport setuptools\nsetuptools.setup(name='demo-source')\n"
    return archive(
        "demo-source-1.0",
        setup__py=setup,
        PKG_INFO="Metadata-Version: 2.1\nName: demo-source\nVersion: 1.0\n",
    )


def npm_package() -> bytes:
    """With a script that leaves a mark when it runs."""
    facts = {"name": "demo-npm", "version": "1.0.0", "main": "index.js"}
    scripts = {"scripts": {"postinstall": "touch /workspace/ran"}}
    return archive(
        "package", package__json=json.dumps({**facts, **scripts}), index__js="module.exports = 42;\n"
    )


class Registry:
    """`handler` of an `Origin`. `base` is where it is reached; `asked` counts paths."""

    def __init__(self) -> None:
        self.base = ""
        self.asked: Counter[str] = Counter()
        self.seen: list[bytes] = []
        self.files = {
            f"/files/{WHEEL}": wheel(),
            f"/files/{SDIST}": sdist(),
            "/demo-npm/-/demo-npm-1.0.0.tgz": npm_package(),
        }

    async def handler(self, stream: ByteStream) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += await stream.receive()
                self.seen.append(head)
                path = head.split(b" ", 2)[1].decode().partition("?")[0]
                self.asked[path] += 1
                status, kind, body = self._answer(path)
                said = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
                await stream.send(said.encode() + (b"" if head.startswith(b"HEAD ") else body))

    def _answer(self, path: str) -> tuple[str, str, bytes]:
        pages: dict[str, Callable[[], tuple[str, bytes]]] = {
            "/": lambda: ("text/plain", b"hello"),
            "/repo.git/info/refs": lambda: ("text/plain", f"{COMMIT}\trefs/heads/main\n".encode()),
            "/repo.git/HEAD": lambda: ("text/plain", b"ref: refs/heads/main\n"),
            "/simple/demo-wheel/": lambda: ("text/html", self._links(WHEEL)),
            "/simple/demo-source/": lambda: ("text/html", self._links(SDIST)),
            "/demo-npm": lambda: ("application/json", self._npm("demo-npm")),
            "/@scope/demo-npm": lambda: ("application/json", self._npm("@scope/demo-npm")),
        }
        if path in pages:
            return "200 OK", *pages[path]()
        if path in self.files:
            return "200 OK", "application/octet-stream", self.files[path]
        return "404 Not Found", "text/plain", b"no"

    def _links(self, name: str) -> bytes:
        digest = hashlib.sha256(self.files[f"/files/{name}"]).hexdigest()
        return f'<!DOCTYPE html><a href="{self.base}/files/{name}#sha256={digest}">{name}</a>'.encode()

    def _npm(self, name: str) -> bytes:
        tarball = "/demo-npm/-/demo-npm-1.0.0.tgz"
        digest = base64.b64encode(hashlib.sha512(self.files[tarball]).digest()).decode()
        dist = {"tarball": self.base + tarball, "integrity": f"sha512-{digest}"}
        version = {"name": name, "version": "1.0.0", "dist": dist, "hasInstallScript": True}
        return json.dumps(
            {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        ).encode()

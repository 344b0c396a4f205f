"""A runner in memory that speaks the real wire and runs scripts instead of programs.

For tests of what is above the engines: deterministic, without tasks, time or processes.
`images/runner/README.md` documents the wire. The `code` of a run is a script, one command a line:

    out TEXT, err TEXT     a line to stdout, stderr        flood N      N bytes to stdout
    value TEXT             the last expression's repr      display MIME TEXT
    set NAME VALUE         remember (with `keep`: beyond this run)
    get NAME               print it; unknown: exit 1       cat          echo stdin
    exit N, signal N       end like this                   args         print the arguments
    wait                   until CANCEL                    hang         for ever; ignores CANCEL
    sleep                  until INTERRUPT or CANCEL       nobuild N    the build fails with N
    oom, full PATH, crowd  report an OOM kill, a full file system, or not to be alone
    die, die-oom           the whole sandbox ends          garbage      break the wire's rules
    save PATH TEXT         make a file; PATH as in a report of artifacts
    claim JSON             report these artifacts
    mess                   leave something that a scrub has to remove
    stain                  leave something that no scrub removes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from sandbox_server import wire
from sandbox_server.engines.base import Death
from sandbox_server.wire import Frame, Type


class ScriptedRunner:
    """Sans I/O: `feed` takes what the host sends, `sent` holds what is to be received.

    After `death` is set nothing more is sent. `files` are what was written, by path.
    While `stalled`, whoever writes a file takes nothing and gives no credit. Writing a file
    ends it with `die_on_write`, if set. `deaf_to_reset`: a reset can't end everything. `deaf_to_processes`:
    what is asked of background processes stays `unanswered`. `ran` counts the runs.
    """

    def __init__(self) -> None:
        self.sent = bytearray()
        self.death: Death | None = None
        self.files: dict[str, bytes] = {}
        self.preload: list[str] = []
        self.memory: dict[str, str] | None = None
        """What the kept interpreter remembers; None: there is none."""
        self.running: _Run | None = None
        self.stalled = False
        self.deaf_to_reset = False
        self.deaf_to_processes = False
        self.unanswered = 0
        self.die_on_write: Death | None = None
        self.ran = 0
        self.scrubs = 0
        self.stained = False
        self._channels: dict[int, _Run | _Write | _Read] = {}
        self._decoder = wire.Decoder(wire.MAX_FROM_HOST)
        self.send_json(Type.HELLO, 0, {"protocol": wire.PROTOCOL_VERSION})

    def feed(self, data: bytes) -> None:
        """Take bytes from the host and go on as far as they allow."""
        for frame in self._decoder.feed(data):
            if self.death is None:
                self._dispatch(frame)

    def _dispatch(self, frame: Frame) -> None:
        channel = self._channels.get(frame.channel)
        if frame.type is Type.SETUP:
            self.preload = list(frame.json().get("preload", ()))
            self.send_json(Type.READY, 0, {"python": "scripted", "preload_failed": {}})
        elif frame.type is Type.OPEN:
            self._open(frame.channel, frame.json())
        elif channel is not None:
            channel.take(frame)

    def _open(self, number: int, request: dict[str, Any]) -> None:
        match request["op"]:
            case "ping":
                self.close(number, {"ok": True})
            case "process" if self.deaf_to_processes:
                self.unanswered += 1
            case "reset" if self.deaf_to_reset:
                self.close(number, {"ok": False})
            case "reset" if self.running is None:
                self.memory = None
                self.close(number, {"ok": True})
            case "scrub" if self.running is None:
                self.scrubs += 1
                self.memory = None
                self.files.clear()
                self.close(number, {"ok": not self.stained, "problem": "stained" if self.stained else ""})
            case "read":
                self._read(number, request)
            case "write" if self.die_on_write is not None:
                self.death = self.die_on_write
            case "write":
                self._channels[number] = _Write(self, number, request["path"])
            case "run" if self.running is None:
                self.ran += 1
                run = _Run(self, number, request)
                self.running = self._channels[number] = run
                run.step()
            case _:
                self.close(number, {"ok": False, "error": "EBUSY", "message": "refused"})

    def _read(self, number: int, request: dict[str, Any]) -> None:
        content = self.files.get(request["path"])
        if content is None:
            self.close(number, {"ok": False, "error": "ENOENT", "message": "No such file or directory"})
            return
        reading = self._channels[number] = _Read(self, number, content, request)
        reading.step()

    @property
    def open_channels(self) -> int:
        """Operations that have not ended."""
        return len(self._channels)

    def send(self, kind: Type, channel: int, payload: bytes) -> None:
        """Queue a frame for the host."""
        self.sent += wire.encode(kind, channel, payload)

    def send_json(self, kind: Type, channel: int, value: dict[str, Any]) -> None:
        """Queue a frame that holds JSON."""
        self.sent += wire.encode_json(kind, channel, value)

    def close(self, number: int, report: dict[str, Any]) -> None:
        """Send CLOSE and forget the channel."""
        if self._channels.pop(number, None) is self.running:
            self.running = None
        self.send_json(Type.CLOSE, number, report)


class _Write:
    """A file that is being written."""

    def __init__(self, runner: ScriptedRunner, number: int, path: str) -> None:
        self._runner = runner
        self._number = number
        self._path = path
        self._content = bytearray()

    def take(self, frame: Frame) -> None:
        if frame.type is Type.CANCEL:
            self._runner.close(self._number, {"ok": False, "error": "ECANCELED", "message": "was killed"})
        elif self._runner.stalled:
            return
        elif frame.type is Type.DATA:
            self._content += frame.payload
            self._runner.sent += wire.encode_credit(self._number, len(frame.payload))
        elif frame.type is Type.END:
            self._runner.files[self._path] = bytes(self._content)
            self._runner.close(self._number, {"ok": True, "size": len(self._content)})


class _Read:
    """A file that is being read, as far as there is credit."""

    def __init__(self, runner: ScriptedRunner, number: int, content: bytes, request: dict[str, Any]) -> None:
        self._runner = runner
        self._number = number
        self._size = len(content)
        self._offset = request["offset"]
        self._left = content[self._offset :][: request["length"]]
        self._credit = wire.WINDOW

    def take(self, frame: Frame) -> None:
        if frame.type is Type.CANCEL:
            self._runner.close(self._number, {"ok": False, "error": "ECANCELED", "message": "was killed"})
        elif frame.type is Type.CREDIT:
            self._credit += int.from_bytes(frame.payload, "big")
            self.step()

    def step(self) -> None:
        while self._left and self._credit:
            piece = self._left[: min(self._credit, wire.MAX_FROM_RUNNER)]
            self._left = self._left[len(piece) :]
            self._credit -= len(piece)
            self._runner.send(Type.STDOUT, self._number, piece)
        if not self._left:
            self._runner.close(self._number, {"ok": True, "offset": self._offset, "size": self._size})


class _Run:
    """A script under way. A generator is suspended wherever it has to wait for the host."""

    def __init__(self, runner: ScriptedRunner, number: int, request: dict[str, Any]) -> None:
        self._runner = runner
        self._number = number
        self._request = request
        self._credit = wire.WINDOW
        self._stdin = bytearray()
        self._stdin_ended = not request.get("stdin")
        self._cancelled = False
        self._sleeping = False
        self._interrupted = False
        self._deaf = False
        self._mess = False
        self._keep = bool(request.get("keep"))
        self._fresh = self._keep and runner.memory is None
        if self._fresh:
            runner.memory = {}
        self._memory = runner.memory if self._keep and runner.memory is not None else {}
        self._report: dict[str, Any] = {
            "exit_code": 0,
            "signal": None,
            "cause": None,
            "cpu_us": 1000,
            "peak_memory": 8 * 1024 * 1024,
            "oom_kills": 0,
            "full": [],
            "alone": True,
            "artifacts": {"files": [], "omitted": 0, "complete": True},
            "stage": "run",
        }
        self._script = self._perform()

    def take(self, frame: Frame) -> None:
        if frame.type is Type.CREDIT:
            self._credit += int.from_bytes(frame.payload, "big")
        elif frame.type is Type.DATA:
            self._stdin += frame.payload
            self._runner.sent += wire.encode_credit(self._number, len(frame.payload))
        elif frame.type is Type.END:
            self._stdin_ended = True
        elif frame.type is Type.CANCEL:
            self._cancelled = True
        elif frame.type is Type.INTERRUPT:
            self._interrupted = True
        self.step()

    def step(self) -> None:
        """Go on until the script waits or ends."""
        if self._cancelled and not self._deaf:
            self._finish(None, 9, cause="cancelled")
            self._close()
            return
        if self._interrupted and self._sleeping:
            self._finish(130, None)
            self._close()
            return
        if next(self._script, "ended") == "ended" and self._runner.death is None:
            self._close()

    def _close(self) -> None:
        killed = self._report["signal"] is not None
        if self._keep and killed:
            self._runner.memory = None
        kept = "gone" if killed else "kept"
        self._report["interpreter"] = kept if self._keep else None
        self._report["fresh"] = self._fresh
        clean = not (self._mess or self._runner.stained or self._runner.files)
        self._report["clean"] = bool(self._request.get("reuse")) and clean
        self._runner.close(self._number, self._report)

    def _finish(self, exit_code: int | None, signal: int | None, cause: str | None = None) -> None:
        self._report.update(exit_code=exit_code, signal=signal, cause=cause)

    def _perform(self) -> Iterator[str]:
        for line in self._request["code"].splitlines():
            command, _, rest = line.strip().partition(" ")
            if command in ("exit", "signal"):
                code = int(rest)
                self._finish(*((code, None) if command == "exit" else (None, code)))
                return
            if command == "nobuild":
                self._finish(int(rest), None)
                self._report["stage"] = "build"
                return
            if command == "get" and rest not in self._memory:
                yield from self._emit(Type.STDERR, f"NameError: {rest}\n".encode())
                self._finish(1, None)
                return
            if command.startswith("die"):
                oom = command == "die-oom"
                self._runner.death = Death(137, oom, "out of memory" if oom else "the runner ended")
                return
            if command:
                yield from self._commands()[command](rest)

    def _commands(self) -> dict[str, Callable[[str], Iterator[str]]]:
        return {
            "out": lambda text: self._emit(Type.STDOUT, text.encode() + b"\n"),
            "err": lambda text: self._emit(Type.STDERR, text.encode() + b"\n"),
            "flood": lambda size: self._emit(Type.STDOUT, b"x" * int(size)),
            "args": lambda _: self._emit(Type.STDOUT, " ".join(self._request["args"]).encode() + b"\n"),
            "get": lambda name: self._emit(Type.STDOUT, self._memory[name].encode() + b"\n"),
            "value": lambda text: self._emit(Type.SIDE, _record(1, text.encode())),
            "display": lambda rest: self._emit(Type.SIDE, _record(2, rest.replace(" ", "\0", 1).encode())),
            "set": self._set,
            "cat": self._cat,
            "wait": self._wait,
            "sleep": self._sleep,
            "hang": self._hang,
            "oom": lambda _: self._note(oom_kills=1),
            "full": lambda path: self._note(full=[path]),
            "crowd": lambda _: self._note(alone=False),
            "garbage": self._garbage,
            "save": self._save,
            "mess": self._leave,
            "stain": self._leave,
            "claim": lambda text: self._note(artifacts=json.loads(text)),
        }

    def _emit(self, kind: Type, data: bytes) -> Iterator[str]:
        while data:
            while self._credit <= 0:
                yield "out of credit"
            size = min(self._credit, wire.MAX_FROM_RUNNER, len(data))
            self._credit -= size
            self._runner.send(kind, self._number, data[:size])
            data = data[size:]

    def _leave(self, _: str) -> Iterator[str]:
        self._mess = True
        self._runner.stained |= "stain" in self._request["code"]
        yield from ()

    def _set(self, rest: str) -> Iterator[str]:
        name, _, value = rest.partition(" ")
        self._memory[name] = value
        yield from ()

    def _save(self, rest: str) -> Iterator[str]:
        path, _, content = rest.partition(" ")
        self._runner.files[unquote(path, errors="surrogateescape")] = content.encode()
        self._report["artifacts"]["files"].append([path, len(content.encode())])
        yield from ()

    def _cat(self, _: str) -> Iterator[str]:
        while not self._stdin_ended:
            yield "no end of stdin yet"
        yield from self._emit(Type.STDOUT, bytes(self._stdin))

    def _wait(self, _: str) -> Iterator[str]:
        while True:
            yield "waiting for CANCEL"

    def _sleep(self, _: str) -> Iterator[str]:
        self._sleeping = True
        yield from self._wait("")

    def _hang(self, _: str) -> Iterator[str]:
        self._deaf = True
        yield from self._wait("")

    def _note(self, **changes: Any) -> Iterator[str]:
        self._report.update(changes)
        yield from ()

    def _garbage(self, _: str) -> Iterator[str]:
        self._runner.sent += b"\xff" * wire.HEADER.size
        yield from self._wait("")


def _record(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(4, "big") + body

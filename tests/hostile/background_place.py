"""Background processes of one connection's session in the lab."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anyio

from sandbox_server.execution import process_models as models
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import RunEvent, RunResult
from sandbox_server.execution.process_models import ProcessAnswer, ProcessView, Wanted
from tests.hostile.lab import Lab

LONG = 10.0


def ignore(event: RunEvent) -> None:
    """Where a call stands does not matter here."""


@dataclass
class Station:
    """`cell` runs code in the session, the rest is what the caller does with its background processes."""

    lab: Lab
    connection: str

    async def cell(self, code: str, language: str = "python", **options: Any) -> RunResult:
        return await self.lab.run(code, language, connection=self.connection, **options)

    async def do(self, operation: models.ProcessOperation) -> ProcessAnswer:
        with anyio.fail_after(60):
            return await self.lab.manager.processes.perform(
                operation, caller=Caller(connection=self.connection), on_event=ignore
            )

    async def start(self, *command: str, wait: float = 0.0, **options: Any) -> str:
        operation = models.StartProcess(command, wanted=Wanted(wait=wait), **options)
        return (await self.do(operation)).processes[0].id

    async def python(self, code: str, **options: Any) -> str:
        return await self.start("python3", "-u", "-c", code, **options)

    async def poll(self, process: str, cursor: int | None = None, **wanted: Any) -> ProcessAnswer:
        return await self.do(models.PollProcess(process, Wanted(cursor, **wanted)))

    async def view(self, process: str) -> ProcessView:
        """As it is; its output stays untold."""
        listed = (await self.do(models.ListProcesses())).processes
        return next(each for each in listed if each.id == process)

    async def says(self, process: str, what: str, cursor: int = 0) -> str:
        """What it has said since `cursor` once `what` is in it."""
        said = ""
        with anyio.fail_after(LONG):
            while what not in said:
                answer = await self.poll(process, cursor, wait=LONG)
                assert answer.output is not None
                said += (answer.output.stdout + answer.output.stderr).decode()
                cursor = answer.output.cursor
                assert answer.processes[0].running or what in said, f"ended and said {said!r}"
        return said

    async def end(self, process: str) -> ProcessView:
        """How it ended, once it has."""
        with anyio.fail_after(LONG):
            while True:
                answer = await self.poll(process, wait=LONG)
                if not answer.processes[0].running:
                    return answer.processes[0]

    async def signal(self, process: str, signal: models.SignalName, wait: float = LONG) -> ProcessView:
        answer = await self.do(models.SignalProcess(process, signal, Wanted(wait=wait)))
        return answer.processes[0]

    async def write(self, process: str, data: bytes, *, close: bool = False) -> ProcessAnswer:
        return await self.do(models.WriteProcess(process, data, close))


@asynccontextmanager
async def open_station(lab: Lab) -> AsyncIterator[Station]:
    connection = uuid4().hex
    try:
        yield Station(lab, connection)
    finally:
        await lab.manager.close_connection(connection)

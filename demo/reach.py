"""The steps about what goes on beside a run, and what leaves the house: background, web, database."""

from __future__ import annotations

import ast
from typing import Any

from demo import programs
from demo.stage import Stage, claim

NEAR = "https://docs.python.org/2/library/os.html"
METADATA = "http://169.254.169.254/latest/meta-data/"

BY_REGION = "SELECT region, SUM(units * cents) AS cents FROM sales GROUP BY region"
DENIED = (("SELECT email FROM customers", "select"), ("DELETE FROM sales", "delete"))


async def background(stage: Stage) -> str:
    command = ["python3", "-c", programs.SITE]
    started = await stage.call("process", operation="start", command=command, wait=10)
    name = started.result["processes"][0]["process"]
    port = started.result["stdout"].strip()
    claim(port.isdecimal(), "the server in the background tells its port", started.result)
    visited = await stage.run(programs.VISIT.replace("{port}", port))
    size = len(stage.sales.csv)
    claim(visited.result["result"] == str(size), "a later call reads a file from it", visited.result)
    await stage.call("process", operation="signal", process=name, signal="TERM")
    after = await stage.run(programs.LOOK_AWAY.replace("{port}", port))
    said = ast.literal_eval(after.result["result"] or "''")
    claim("refused" in said, "it is gone once it got its signal", after.result)
    return (
        f"a web server that outlives its call gave {size:,} bytes to the next one, inside the sandbox; "
        f"after a signal: {said}"
    )


async def database(stage: Stage) -> str:
    answer = await stage.call("database", query=BY_REGION)
    found = dict(answer.result["rows"])
    claim(found == stage.sales.by_region, "SQL finds the sums that pandas found", found)
    shown = await stage.call("database", query="SELECT * FROM customers", limit=1)
    columns = [column["name"] for column in shown.result["columns"]]
    claim(columns == ["name"], "* leaves out what is withheld", columns)
    lines = [f"SQLite, the same sums to the cent, {answer.seconds * 1000:.0f} ms"]
    for query, operation in DENIED:
        error = await stage.refused("database", query=query, operation=operation)
        lines.append(f"{query}: {_told(error)}")
    return "\n   ".join(lines)


async def web(stage: Stage) -> str:
    """Nothing here sends a byte: all of it is denied before a name is looked up."""
    near = await stage.refused("web_api", method="GET", url=NEAR)
    claim("/3/**" in _told(near), "the denial tells what would be allowed", near)
    metadata = await stage.refused("web_api", method="GET", url=METADATA)
    return (
        f"{NEAR}: {_told(near)}\n   {METADATA}: {_told(metadata)}\n"
        "   the shipped default policy grants neither web_api nor database"
    )


def _told(error: dict[str, Any]) -> str:
    return f"denied, {error['message']}" + (f"; {error['hint']}" if error["hint"] else "")

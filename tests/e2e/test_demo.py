"""The demo as a user starts it: it checks its own claims, and here we check that it does."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from demo.clients import http_command, setups, stdio_command
from demo.sales import make_sales
from demo.stage import Broken, claim

ROOT = Path(__file__).parents[2]
DEMO_SECONDS = 180


def idat(png: bytes) -> bytes:
    """The pixels of a PNG, unpacked; raises if a chunk is cut or its checksum is wrong."""
    pixels, place = b"", 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", png, place + 8 + length)
        assert zlib.crc32(kind + body) == checksum
        pixels += body if kind == b"IDAT" else b""
        place += 12 + length
    return zlib.decompress(pixels)


def test_the_demo_runs_and_every_claim_holds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--output", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    for expected in (
        "10,000 rows",
        "right to the cent",
        "the variables of the call before were still there",
        "allowed 1 s, stopped after 1.",
        "Resource temporarily unavailable",
        "outcome out_of_memory",
        "no interface but lo",
        "a web server that outlives its call gave 304,490 bytes",
        "SQLite, the same sums to the cent",
        "column email of main.customers is not allowed",
        "DELETE FROM sales: denied, delete is not granted on this database; granted: select",
        "this path is not allowed on the host; allowed: /3/**",
        "no container is left",
        "hash-chained lines holds",
    ):
        assert expected in said
    assert re.search(r"killed at \d+ MB", said)
    _check_plot(tmp_path / "plot.png")


def _check_plot(path: Path) -> None:
    png = path.read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    assert width > 100
    assert height > 100
    # Lines and letters on white: an empty figure has next to no colours.
    assert len(set(idat(png))) > 50


def test_a_demo_whose_server_does_not_start_says_why_and_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--output", str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "SANDBOX_SERVER_CA_BUNDLE": str(tmp_path / "no-bundle.pem")},
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
    )
    assert done.returncode == 1
    assert "demo failed: the server does not start" in done.stdout
    assert "no-bundle.pem" in done.stdout.replace("\n", "")


def test_a_claim_that_does_not_hold_says_what_was_observed() -> None:
    with pytest.raises(Broken, match="it is blue; observed: green"):
        claim(False, "it is blue", "green")


def test_the_data_is_the_same_every_time() -> None:
    one, other = make_sales(), make_sales()
    assert one == other
    assert make_sales(seed=2).csv != one.csv
    assert one.csv.count(b"\n") == 10_001
    assert one.missing > 0


def test_every_client_is_told_of_a_command_that_exists() -> None:
    assert Path(stdio_command()[0]).is_absolute()
    assert Path(stdio_command()[0]).exists()
    help_text = subprocess.run(
        [*stdio_command()[:-2], "--help"], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert help_text.returncode == 0
    for option in (each for each in http_command() if each.startswith("--")):
        assert option in help_text.stdout


def test_the_configuration_of_each_client_is_in_its_own_form() -> None:
    texts = {setup.client: setup.text for setup in setups(port=1234)}
    assert texts["Claude Code, stdio"].startswith("claude mcp add sandbox -- /")
    assert texts["Claude Code, HTTP"].endswith("--transport http sandbox http://127.0.0.1:1234/mcp")
    assert "--port 1234 --no-auth" in texts["Claude Code, HTTP"]
    for client in ("Claude Desktop", "Cursor"):
        entry = json.loads(texts[client])["mcpServers"]["sandbox"]
        assert [entry["command"], *entry["args"]] == stdio_command()
    entry = json.loads(texts["VS Code"])["servers"]["sandbox"]
    assert entry["type"] == "stdio"
    assert [entry["command"], *entry["args"]] == stdio_command()

"""How to connect the usual clients to this checkout, exactly."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

PORT = 8700


@dataclass(frozen=True)
class Setup:
    """`where` is a shell, or the file that `text` belongs into."""

    client: str
    where: str
    text: str


def stdio_command() -> list[str]:
    """What a client starts, as an absolute path: clients have a PATH of their own."""
    script = Path(sys.executable).parent / "sandbox-server"
    program = [str(script)] if script.exists() else [sys.executable, "-m", "sandbox_server"]
    return [*program, "serve", "--transport", "stdio"]


def http_command(port: int = PORT) -> list[str]:
    return [*stdio_command()[:-1], "http", "--port", str(port), "--no-auth"]


def setups(port: int = PORT) -> list[Setup]:
    """In the order in which they are printed."""
    command, *arguments = stdio_command()
    entry = {"command": command, "args": arguments}
    url = f"http://127.0.0.1:{port}/mcp"
    return [
        Setup("Claude Code, stdio", "shell", f"claude mcp add sandbox -- {shlex.join(stdio_command())}"),
        Setup(
            "Claude Code, HTTP",
            "shell",
            f"{shlex.join(http_command(port))} &\nclaude mcp add --transport http sandbox {url}",
        ),
        Setup("Claude Desktop", "claude_desktop_config.json", _json({"mcpServers": {"sandbox": entry}})),
        Setup("Cursor", ".cursor/mcp.json", _json({"mcpServers": {"sandbox": entry}})),
        Setup(
            "VS Code",
            ".vscode/mcp.json",
            _json({"servers": {"sandbox": {"type": "stdio", **entry}}}),
        ),
    ]


def _json(value: object) -> str:
    return json.dumps(value, indent=2)

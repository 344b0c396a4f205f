"""The settings of one server process: frozen, typed, and the only place that reads the environment."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sandbox_server.errors import ConfigError
from sandbox_server.shipped import shipped

Transport = Literal["stdio", "http"]

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

NAME: Final = "mcp-sandbox-server"

LIMITS: Final = frozenset({"memory", "swap", "cpu", "pids", "seccomp"})
"""What an operator may choose to do without on a host that can't apply it."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where HTTP is served. `no_auth` is the operator's word that nobody has to prove who they are."""

    host: str = "127.0.0.1"
    port: int = 8700
    no_auth: bool = False

    def check(self) -> None:
        """Raises ConfigError for an endpoint that would let strangers run code."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} does not exist", hint="give one from 0 (any) to 65535")
        loopback = self.host in LOOPBACK
        if self.no_auth and not loopback:
            raise ConfigError(
                f"--no-auth on {self.host} would let anyone who reaches this machine run code",
                hint="serve on 127.0.0.1 and tunnel to it (ssh -L), or use --transport stdio",
            )
        if not loopback:
            raise ConfigError(
                f"this version has no tokens yet, so it can't serve on {self.host}",
                hint="serve on 127.0.0.1 with --no-auth, or use --transport stdio",
            )
        if not self.no_auth:
            raise ConfigError(
                "HTTP without tokens lets every user and program of this machine run code",
                hint="add --no-auth if that is what you want (this version has no tokens yet)",
            )


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where metrics are served by themselves."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> MetricsAddress:
        """Of HOST:PORT. Raises ConfigError, also for an address that others than this machine reach."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
        number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
        if not colon or not host or not 0 <= number <= 65535:
            raise ConfigError(
                f"--metrics {text}: is not HOST:PORT",
                hint="such as 127.0.0.1:9464, or [::1]:9464; port 0 is any",
            )
        if host not in LOOPBACK:
            raise ConfigError(
                f"--metrics {text} would tell anyone who reaches this machine who uses the server for what",
                hint="serve them on 127.0.0.1; this version has no tokens yet",
            )
        return cls(host, number)


@dataclass(frozen=True, slots=True)
class Settings:
    """`policy` is a file; `state_dir` is made if absent; `docker_host` None means Docker's own default.

    `secrets_dir` has a file for each `secret://NAME`. `ca_bundle`: further authorities (PEM) that the server
    believes, and the sandboxes that it lets out. `claims` is a JSON file of a token's claims: who a caller
    without a token is taken for. `metrics`: where they are served besides; None: only beside MCP over HTTP.

    `instance` names this deployment's containers; None takes the first slot that no live server holds.
    """

    policy: Path
    state_dir: Path
    transport: Transport = "stdio"
    endpoint: Endpoint = Endpoint()
    instance: str | None = None
    docker_host: str | None = None
    insecure_allow_missing: frozenset[str] = frozenset()
    secrets_dir: Path | None = None
    ca_bundle: Path | None = None
    claims: Path | None = None
    metrics: MetricsAddress | None = None

    @classmethod
    def read(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        transport: Transport = "stdio",
        endpoint: Endpoint | None = None,
        policy: Path | None = None,
        state_dir: Path | None = None,
        instance: str | None = None,
        insecure_allow_missing: frozenset[str] = frozenset(),
        claims: Path | None = None,
        metrics: str | None = None,
    ) -> Settings:
        """Arguments come from the command line and win over the environment:
        SANDBOX_SERVER_POLICY, _STATE_DIR, _INSTANCE, _INSECURE_ALLOW_MISSING (a comma between names),
        _SECRETS_DIR (default: `secrets` in the state directory), _CA_BUNDLE, _PRINCIPAL (file, as `claims`),
        _METRICS and DOCKER_HOST. Raises ConfigError."""
        endpoint = endpoint or Endpoint()
        if transport == "http":
            endpoint.check()
        missing = environ.get("SANDBOX_SERVER_INSECURE_ALLOW_MISSING", "")
        metrics = metrics or environ.get("SANDBOX_SERVER_METRICS")
        state = state_dir or _path(environ, "SANDBOX_SERVER_STATE_DIR") or _state_dir(environ)
        return cls(
            policy=policy or _path(environ, "SANDBOX_SERVER_POLICY") or shipped("policies") / "default.yaml",
            state_dir=state,
            transport=transport,
            endpoint=endpoint,
            instance=instance or environ.get("SANDBOX_SERVER_INSTANCE") or None,
            docker_host=environ.get("DOCKER_HOST") or None,
            secrets_dir=_path(environ, "SANDBOX_SERVER_SECRETS_DIR") or state / "secrets",
            ca_bundle=_path(environ, "SANDBOX_SERVER_CA_BUNDLE"),
            claims=claims or _path(environ, "SANDBOX_SERVER_PRINCIPAL"),
            metrics=MetricsAddress.parse(metrics) if metrics else None,
            insecure_allow_missing=_limits(insecure_allow_missing | frozenset(missing.split(",")) - {""}),
        )


def _limits(names: frozenset[str]) -> frozenset[str]:
    if unknown := names - LIMITS:
        raise ConfigError(
            f"--insecure-allow-missing: there is no limit {', '.join(sorted(unknown))}",
            hint=f"known are {', '.join(sorted(LIMITS))}",
        )
    return names


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name)
    return Path(value).expanduser() if value else None


def _state_dir(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib") / NAME
    base = environ.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return Path(base) / NAME
    # MCP clients may start us with an empty environment: HOME is not to be relied on.
    home = environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    return Path(home) / ".local" / "state" / NAME

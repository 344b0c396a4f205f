"""What leaves the house, by settings and policy: the web client, the way out of sandboxes, databases."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sandbox_server.access.database.databases import Databases
from sandbox_server.access.egress import Authority, Dialler, Gateway
from sandbox_server.access.egress.cache import FileCache
from sandbox_server.access.egress.indexes import Indexes
from sandbox_server.access.egress.trust import read_bundle, sandbox_bundle, server_context
from sandbox_server.access.http.client import Client
from sandbox_server.access.http.models import Resolver
from sandbox_server.access.http.own import OwnAddresses
from sandbox_server.access.http.resolver import SystemResolver
from sandbox_server.access.http.trust import tls_context
from sandbox_server.access.redaction import Redactor
from sandbox_server.access.secrets import Secrets
from sandbox_server.config import Settings
from sandbox_server.enforcement.databases import DatabaseRules
from sandbox_server.enforcement.egress import EgressRules
from sandbox_server.enforcement.gate import Gate
from sandbox_server.enforcement.web import hop_teller
from sandbox_server.errors import ConfigError
from sandbox_server.guards.addresses import IPAddress
from sandbox_server.policy.models import Policy


class OwnPorts:
    """Where this server listens, which nothing that it lets out may reach."""

    def __init__(self) -> None:
        self._ports: set[int] = set()
        self._addresses = OwnAddresses()

    def add(self, port: int) -> None:
        self._ports.add(port)

    def __call__(self) -> Collection[int]:
        return self._ports

    def listening(self, address: IPAddress, port: int) -> bool:
        return port in self._ports and (address.is_loopback or address in self._addresses())


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom sandboxes and our own connections on their behalf believe."""

    authority: Authority | None
    bundle: bytes
    tls: ssl.SSLContext
    environment: Mapping[str, str]
    """What sandboxes with egress are told of package indexes."""


class Outside:
    """Everything that goes out, by the policy that holds now."""

    def __init__(self, web: Client, gateway: Gateway, databases: Databases, trust: Trust) -> None:
        self.web = web
        self.gateway = gateway
        self.databases = databases
        self.trust = trust

    def adopt(self, trust: Trust) -> None:
        """For connections from now on."""
        self.trust = trust
        self.gateway.authority, self.gateway.trust = trust.authority, trust.bundle
        self.gateway.tls, self.gateway.environment = trust.tls, trust.environment


@asynccontextmanager
async def open_outside(
    settings: Settings, gate: Gate, secrets: Secrets, ports: OwnPorts, resolver: Resolver | None = None
) -> AsyncIterator[Outside]:
    """Opens no connection. `resolver` instead of the system's. Raises ConfigError."""
    trust = trust_of(settings, gate.current.policy)
    rules = EgressRules(gate)
    outside = Outside(
        Client(
            resolver=resolver or SystemResolver(),
            secrets=secrets,
            tls=tls_context(settings.ca_bundle),
            own_ports=ports,
            on_hop=hop_teller(gate),
        ),
        Gateway(
            rules.judge,
            rules.limits,
            dialler=Dialler(resolver.resolve if resolver else None, listening=ports.listening),
            on_connection=rules.connected,
            spend=rules.spend,
            secrets=secrets.get,
            authority=trust.authority,
            trust=trust.bundle,
            tls=trust.tls,
            environment=trust.environment,
            cache=FileCache(settings.state_dir / "egress" / "files"),
        ),
        Databases(DatabaseRules(gate), secrets.get),
        trust,
    )
    try:
        yield outside
    finally:
        await outside.databases.aclose()


def trust_of(settings: Settings, policy: Policy) -> Trust:
    """Makes the deployment's own authority where the policy has TLS opened. Raises ConfigError."""
    profiles = policy.file.egress.profiles
    named = policy.file.egress.ca_bundle
    extra = b"\n".join(read_bundle(each) for each in _bundles(settings, named)) if profiles else b""
    opens = any(rule.terminate for profile in profiles.values() for rule in profile.allow)
    authority = Authority.load(settings.state_dir / "egress") if opens else None
    bundle = sandbox_bundle(extra, authority) if profiles else b""
    indexes = Indexes(settings.state_dir / "egress")
    indexes.recall(
        host
        for profile in profiles.values()
        for rule in profile.allow
        for host in rule.hosts
        if host.startswith("@")
    )
    _check_guarded(policy, indexes)
    return Trust(authority, bundle, server_context(extra), indexes.environment)


def _check_guarded(policy: Policy, indexes: Indexes) -> None:
    """Credentials that pip and npm on this host have go into no sandbox: the policy must say what to send."""
    for name, profile in policy.file.egress.profiles.items():
        named = {host for rule in profile.allow for host in rule.hosts}
        for alias in named & indexes.known.keys():
            for host in indexes.known[alias].guarded:
                if not any(r.terminate and r.inject and {host, alias} & set(r.hosts) for r in profile.allow):
                    raise ConfigError(
                        f"egress.profiles.{name}: {alias} stands for {host}, for which pip or npm on this "
                        "host has credentials; sandboxes are not given them",
                        hint=f'put a rule before it: {{hosts: ["{host}"], terminate: true, inject: '
                        '{Authorization: "secret://NAME"}}, or write the hosts of an index that wants none',
                    )


def _bundles(settings: Settings, named: str | None) -> Iterable[Path]:
    if settings.ca_bundle is not None:
        yield settings.ca_bundle
    if named is not None:
        yield Path(named)


def open_secrets(settings: Settings) -> Secrets:
    return Secrets(os.environ, settings.secrets_dir)


class Redaction:
    """Takes the values of all secrets that the policy refers to out of a text."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._redactor = Redactor()

    def __call__(self, text: str) -> str:
        return self._redactor.text(text)

    def adopt(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def prepared(self, policy: Policy) -> Redactor:
        """For the secrets of this policy. Raises ConfigError for one that is not there: who relies on it
        should not be the first to find out."""
        values = []
        for name, where in policy.secrets.items():
            try:
                values.append(self._secrets.get(name))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None
        return Redactor(values)

"""What the doctor says of package indexes: what their aliases stand for, and whether a rule reaches them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from sandbox_server.access.egress.indexes import Indexes
from sandbox_server.cli.checks import Check
from sandbox_server.guards.addresses import judge
from sandbox_server.policy.models import Policy
from sandbox_server.policy.schema.egress import EgressAllow


def index_checks(policy: Policy, indexes: Indexes) -> list[Check]:
    """One for each alias in each rule. Asks pip, npm and the resolver: blocks for seconds."""
    return [
        _check(name, rule, alias, indexes)
        for name, profile in policy.file.egress.profiles.items()
        for rule in profile.allow
        for alias in rule.hosts
        if alias.startswith("@")
    ]


def _check(profile: str, rule: EgressAllow, alias: str, indexes: Indexes) -> Check:
    try:
        hosts = indexes.resolve(alias)
        closed = _closed(hosts, rule)
    except (OSError, ValueError) as error:
        fix = f"write hosts instead of {alias} in egress.profiles.{profile}, or mend its name service"
        return Check(alias, "fail", str(error), fix)
    evidence = f"profile {profile}: {', '.join(hosts)}"
    if closed:
        fix = (
            f"if that is a gateway of yours, give the rule in egress.profiles.{profile}: addresses: {closed}"
        )
        what = f"{evidence}; reached by a reserved address, which the rule does not open"
        return Check(alias, "fail", what, fix.replace("'", '"'))
    return Check(alias, "ok", evidence + ("; files are kept on this host" if rule.cache else ""))


def _closed(hosts: Iterable[str], rule: EgressAllow) -> list[str]:
    opened = [ip_network(text) for text in rule.addresses]
    found = {
        ip_address(str(each[4][0]).partition("%")[0])
        for host in hosts
        for each in socket.getaddrinfo(host.rpartition(":")[0] or host, 443, type=socket.SOCK_STREAM)
    }
    return sorted(f"{address}/{address.max_prefixlen}" for address in found if judge(address, opened))

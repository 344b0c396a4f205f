"""The row of the bypass list on resolution: a whole server and the system's own resolver, in a network of
their own, before a name server that lies (`dns.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

EXPECTED: dict[str, tuple[list[str], int]] = {
    "rebinding": (["200", "10.0.0.1", "403", "403"], 1),
    "mixed A records": (["10.0.0.1", "10.0.0.1", "403", "403"], 0),
    "CNAME chain": (["10.0.0.5", "10.0.0.5", "403", "403"], 0),
    "CNAME to metadata": (["cloud metadata", "cloud metadata", "403", "403"], 0),
    "AAAA private and A public": (["fd00::1", "fd00::1", "403", "403"], 0),
    "A private and AAAA public": (["10.0.0.1", "10.0.0.1", "403", "403"], 0),
    "long TTL of a lie": (["10.0.0.1", "200", "200", "200"], 3),
    "long TTL of the truth": (["200", "10.0.0.1", "403", "403"], 1),
    "poisoned neighbour": (["200", "200", "200", "200"], 4),
    "victim": (["200", "200", "200", "200"], 4),
    "own public address": (["an address of this host", "an address of this host", "403", "403"], 0),
    "only": (["has no address", "has no address", "502", "502"], 0),
}
"""What four askings of a name come to, and how many of them connect."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("names")
    command = ["unshare", "--mount", "--net", sys.executable, "-m", "tests.access.dns", str(directory)]
    # What the system's resolver reads from the environment to complete names with.
    environ = {**os.environ, "LOCALDOMAIN": "evil.test", "RES_OPTIONS": "ndots:9"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads((directory / "found.json").read_text())
    return result


@pytest.mark.parametrize("item", EXPECTED)
def test_a_name_leads_to_judged_addresses_only_whatever_its_server_answers(
    item: str, found: dict[str, Any]
) -> None:
    said, connections = EXPECTED[item]
    for told, expected in zip(found[item]["said"], said, strict=True):
        assert expected in told
    assert found[item]["connections"] == connections
    assert found[item]["asked"] == 4 * 2, "once a call, for both kinds of addresses"


def test_no_search_domain_completes_a_name(found: dict[str, Any]) -> None:
    assert found["searched"] == []


def test_a_name_server_that_never_answers_is_not_waited_for(found: dict[str, Any]) -> None:
    assert found["hang"]["reason"] == "web.dns"
    assert found["hang"]["seconds"] < 7

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox_server.config import Endpoint, Settings
from sandbox_server.errors import ConfigError


def test_an_empty_environment_gives_the_shipped_policy_and_a_state_directory() -> None:
    settings = Settings.read({})
    assert settings.policy.name == "default.yaml"
    assert settings.policy.is_file()
    assert settings.state_dir.is_absolute()
    assert settings.docker_host is None


def test_the_environment_is_read_and_arguments_win_over_it() -> None:
    environ = {
        "SANDBOX_SERVER_POLICY": "/a/p.yaml",
        "SANDBOX_SERVER_STATE_DIR": "/a/state",
        "SANDBOX_SERVER_INSTANCE": "blue",
        "SANDBOX_SERVER_INSECURE_ALLOW_MISSING": "pids,memory",
        "DOCKER_HOST": "unix:///x",
    }
    read = Settings.read(environ)
    assert (read.policy, read.state_dir, read.instance) == (Path("/a/p.yaml"), Path("/a/state"), "blue")
    assert read.docker_host == "unix:///x"
    assert read.insecure_allow_missing == {"pids", "memory"}
    assert Settings.read(environ, policy=Path("/b.yaml")).policy == Path("/b.yaml")
    assert Settings.read(environ, instance="green").instance == "green"


def test_state_is_the_system_s_for_root_and_follows_xdg_for_a_user() -> None:
    expected = "/var/lib/mcp-sandbox-server" if os.geteuid() == 0 else "/x/mcp-sandbox-server"
    assert Settings.read({"XDG_STATE_HOME": "/x"}).state_dir == Path(expected)


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        (Endpoint(), "add --no-auth"),
        (Endpoint(host="0.0.0.0", no_auth=True), "--no-auth on 0.0.0.0"),
        (Endpoint(host="192.0.2.1"), "no tokens yet"),
        (Endpoint(host="", no_auth=True), "--no-auth on"),
        (Endpoint(host="127.0.0.1.example.org", no_auth=True), "--no-auth on"),
        (Endpoint(port=70000, no_auth=True), "port 70000"),
    ],
)
def test_an_http_endpoint_that_lets_strangers_in_is_refused(endpoint: Endpoint, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Settings.read({}, transport="http", endpoint=endpoint)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_without_tokens_is_served_once_the_operator_says_so(host: str) -> None:
    settings = Settings.read({}, transport="http", endpoint=Endpoint(host=host, no_auth=True))
    assert settings.endpoint.host == host


def test_stdio_needs_no_word_about_authentication() -> None:
    assert Settings.read({}, transport="stdio").transport == "stdio"


def test_doing_without_a_limit_that_does_not_exist_is_a_mistake_and_not_ignored() -> None:
    with pytest.raises(ConfigError, match=r"no limit pid \("):
        Settings.read({}, insecure_allow_missing=frozenset({"pid", "memory"}))

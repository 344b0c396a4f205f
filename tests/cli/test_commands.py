"""The commands around the server: errors with their exit status, doctor, images, serve over HTTP."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tomllib
import urllib.request
from pathlib import Path

import pytest

import sandbox_server
from sandbox_server.images.recipes import DEFAULT

from .conftest import POLICY, Deployment

DOWN = {"DOCKER_HOST": "unix:///nonexistent"}


def test_the_version_is_the_one_of_the_package(deployment: Deployment) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert sandbox_server.__version__ == project["version"]
    assert deployment.run("version").stdout == project["version"] + "\n"


def test_a_wrong_policy_stops_every_command_with_its_place(deployment: Deployment) -> None:
    deployment.policy.write_text("schema: sandbox-policy/v1\nrules: {}\n")
    for command in (["serve"], ["run", "-"]):
        done = deployment.run(*command, input="1")
        assert done.returncode == 78
        assert f"{deployment.policy}:2:1: rules: unknown key, did you mean 'roles'?" in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--transport", "http"], "add --no-auth"),
        (["--transport", "http", "--host", "0.0.0.0", "--no-auth"], "would let anyone who reaches"),
        (["--transport", "http", "--host", "0.0.0.0"], "no tokens yet"),
    ],
)
def test_serving_strangers_is_refused_with_what_to_do(
    deployment: Deployment, args: list[str], complaint: str
) -> None:
    done = deployment.run("serve", *args)
    assert done.returncode == 78
    assert complaint in done.stderr


def test_an_unknown_option_is_a_usage_error(deployment: Deployment) -> None:
    assert deployment.run("serve", "--nonsense").returncode == 2


def test_tracebacks_are_shown_only_when_asked_for(deployment: Deployment) -> None:
    deployment.policy.unlink()
    assert "Traceback" not in deployment.run("serve").stderr
    assert "Traceback" in deployment.run("--debug", "serve").stderr


def test_doctor_finds_this_machine_fit_and_leaves_nothing_behind(deployment: Deployment) -> None:
    done = deployment.run("doctor", "--json")
    found = json.loads(done.stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert [check for check in checks.values() if check["grade"] == "fail"] == []
    assert found["ok"] is True
    assert done.returncode == 0
    assert {"engine", "limits", "runc", "memory", "disk", "images"} <= checks.keys()
    assert "no root, no capabilities" in checks["sandbox python"]["evidence"]
    assert "was stopped" in checks["timeout"]["evidence"]
    assert all(check["fix"] for check in checks.values() if check["grade"] != "ok")
    assert deployment.containers() == set()


def test_doctor_tries_what_every_role_has(deployment: Deployment, tmp_path: Path) -> None:
    policy = tmp_path / "roles.yaml"
    policy.write_text(
        "schema: sandbox-policy/v1\n"
        "principals: [{match: {sub: a}, roles: [a]}, {match: {sub: b}, roles: [b]}]\n"
        "roles:\n"
        "  a: {code: {languages: {typescript: {}, python: {}}}}\n"
        "  b: {code: {seccomp: strict, languages: {python: {}}}}\n"
    )
    done = deployment.run("doctor", "--json", "--policy", str(policy))
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert [name for name, check in checks.items() if check["grade"] == "fail"] == []
    assert {"sandbox typescript", "sandbox python", "sandbox python (2)", "timeout"} <= checks.keys()
    done = deployment.run("run", "--policy", str(policy), "-", input="print(6 * 7)")
    assert (done.stdout, done.returncode) == ("42\n", 0)
    assert deployment.containers() == set()


def test_doctor_says_that_the_engine_is_down_and_what_to_do(deployment: Deployment) -> None:
    done = deployment.run("doctor", "--json", **DOWN)
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["grade"] == "fail"]
    assert check["name"] == "engine"
    assert check["fix"] != ""
    assert done.returncode == 1


def test_doctor_finds_a_deployment_that_promises_more_than_the_host_has(deployment: Deployment) -> None:
    deployment.policy.write_text(
        deployment.policy.read_text().replace("sandboxes: 4", "sandboxes: 4, memory: 900GiB")
    )
    done = deployment.run("doctor")
    assert re.search(r"FAIL +memory .*900\.0 GiB", done.stdout)
    assert "lower deployment.memory" in done.stdout
    assert done.returncode == 1


def test_images_are_listed_for_people_and_for_programs(deployment: Deployment) -> None:
    done = deployment.run("images", "list", "--json")
    assert {image["name"] for image in json.loads(done.stdout)} == {*DEFAULT, "polyglot"}
    assert "python" in deployment.run("images", "list").stdout


def test_a_build_of_what_is_there_is_quick_and_says_what_is_there(deployment: Deployment) -> None:
    done = deployment.run("images", "build", "--json")
    assert json.loads(done.stdout).keys() == set(DEFAULT)


def test_images_without_an_engine_are_an_error_with_its_own_status(deployment: Deployment) -> None:
    done = deployment.run("images", "list", **DOWN)
    assert done.returncode == 69
    assert done.stderr.startswith("error: the Docker Engine does not answer")


def test_http_is_served_until_a_signal_and_logs_go_to_stderr(deployment: Deployment) -> None:
    command = deployment.command("serve", "--transport", "http", "--port", "0", "--no-auth")
    with subprocess.Popen(
        command, env=deployment.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            assert server.stdout is not None
            lines = (json.loads(line) for line in server.stderr)
            url = next(line["url"] for line in lines if line["event"] == "listening")
            assert url.endswith("/mcp")
            with urllib.request.urlopen(url.removesuffix("/mcp") + "/healthz", timeout=10) as answer:
                health = json.load(answer)
            assert (health["status"], health["engine"]) == ("ok", "ok")
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
            assert server.stdout.read() == ""
        finally:
            server.kill()
    assert deployment.containers() == set()


def test_a_port_that_is_taken_is_an_error_with_what_to_do(deployment: Deployment) -> None:
    first = deployment.command("serve", "--transport", "http", "--port", "0", "--no-auth")
    with subprocess.Popen(first, env=deployment.environ, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = (json.loads(line) for line in server.stderr)
            url = next(line["url"] for line in lines if line["event"] == "listening")
            port = url.rpartition(":")[2].removesuffix("/mcp")
            done = deployment.run("serve", "--transport", "http", "--port", port, "--no-auth")
            assert done.returncode == 78
            assert f"127.0.0.1:{port}" in done.stderr
            server.send_signal(signal.SIGTERM)
            assert server.wait(20) == 0
        finally:
            server.kill()


def test_a_limit_that_the_host_can_not_apply_stops_the_start(deployment: Deployment) -> None:
    deployment.policy.write_text(POLICY.replace("python: {}", "python: {cpus: 250}"))
    done = deployment.run("serve", "--transport", "http", "--port", "0", "--no-auth")
    assert done.returncode == 78
    assert "limit 'cpu': 250 cores are asked for" in done.stderr
    assert "set cpus to at most" in done.stderr

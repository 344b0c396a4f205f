"""What the aliases of package indexes stand for: pip and npm are asked, for real and in made-up words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from sandbox_server.access.egress.indexes import NPM, PYTHON, Indexes
from sandbox_server.config import Settings
from sandbox_server.errors import ConfigError
from sandbox_server.outside import trust_of
from sandbox_server.policy.loader import parse_policy

HELP = "  -i, --index-url <url>  Base URL of the Python Package Index (default {}). This should point"
REPORT = '{{"install": [{{"download_info": {{"url": "{}"}}}}]}}'


class Tools:
    """pip and npm, as far as they are asked."""

    def __init__(self, index: str, files: str, further: str = "") -> None:
        self.index, self.files, self.further = index, files, further
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        words = " ".join(command)
        self.asked.append(words)
        if self.files == "down" and ("--report" in words or " view " in words):
            raise OSError("no route to host")
        if words.endswith("config list"):
            return self.further
        if "--help" in words:
            return HELP.format(self.index)
        if "--report" in words:
            return REPORT.format(self.files)
        return self.index if "config get registry" in words else self.files

    @property
    def searches(self) -> int:
        return sum("--report" in words for words in self.asked)


def test_pip_says_which_hosts_its_index_is(tmp_path: Path) -> None:
    tools = Tools("https://index.example.com/simple", "https://files.example.net/a/b.whl")
    indexes = Indexes(tmp_path, ask=tools)
    assert indexes.resolve(PYTHON) == ("index.example.com", "files.example.net")
    assert indexes.environment == {"PIP_INDEX_URL": "https://index.example.com/simple"}


def test_npm_says_which_hosts_its_registry_is(tmp_path: Path) -> None:
    indexes = Indexes(
        tmp_path, ask=Tools("https://npm.example.com:8443/x/\n", "https://npm.example.com:8443/n.tgz\n")
    )
    assert indexes.resolve(NPM) == ("npm.example.com:8443",)
    assert indexes.environment == {"npm_config_registry": "https://npm.example.com:8443/x/"}


def test_an_http_index_keeps_its_port(tmp_path: Path) -> None:
    indexes = Indexes(
        tmp_path, ask=Tools("http://index.example.com/simple", "http://index.example.com/f.whl")
    )
    assert indexes.resolve(PYTHON) == ("index.example.com:80",)


def test_credentials_of_an_index_go_nowhere(tmp_path: Path) -> None:
    secret = "https://me:hunter2@index.example.com/simple"
    indexes = Indexes(tmp_path, ask=Tools(secret, "https://me:hunter2@files.example.com/x.whl"))
    indexes.resolve(PYTHON)
    assert "hunter2" not in str(indexes.environment)
    assert "hunter2" not in "".join(file.read_text() for file in tmp_path.iterdir())


PIP_CONFIG = """global.extra-index-url='https://never.example.com/simple'
install.extra-index-url='https://two.example.com/simple\\nhttps://me:hunter2@three.example.com:8443/s file:///opt/simple'
install.no-binary='x'
"""
NPM_CONFIG = """; "user" config from /home/me/.npmrc

@acme:registry = "https://me:***@npm.acme.example.com/x/"
; @old:registry = "https://old.example.com/" ; overridden by project
@plain:registry = "https://registry.example.com/"
//npm.acme.example.com/x/:_authToken = (protected)
"""


def test_further_indexes_of_pip_belong_to_the_alias_and_are_told_without_passwords(tmp_path: Path) -> None:
    tools = Tools("https://index.example.com/simple", "https://files.example.net/a/b.whl", PIP_CONFIG)
    indexes = Indexes(tmp_path, ask=tools)
    hosts = ("index.example.com", "two.example.com", "three.example.com:8443", "files.example.net")
    assert indexes.resolve(PYTHON) == hosts
    assert indexes.environment == {
        "PIP_INDEX_URL": "https://index.example.com/simple",
        "PIP_EXTRA_INDEX_URL": "https://two.example.com/simple https://three.example.com:8443/s",
    }
    tools.further = ":env:.extra-index-url='https://four.example.com/simple'\n" + PIP_CONFIG
    assert indexes.resolve(PYTHON) == ("index.example.com", "four.example.com", "files.example.net")
    assert tools.searches == 1
    again = Indexes(tmp_path, ask=tools)
    again.recall([PYTHON, NPM])
    assert again.known == indexes.known


def test_registries_of_npms_scopes_belong_to_the_alias(tmp_path: Path) -> None:
    tools = Tools("https://registry.example.com/", "https://registry.example.com/n.tgz", NPM_CONFIG)
    indexes = Indexes(tmp_path, ask=tools)
    assert indexes.resolve(NPM) == ("registry.example.com", "npm.acme.example.com")
    assert indexes.environment == {
        "npm_config_registry": "https://registry.example.com/",
        "npm_config_@acme:registry": "https://npm.acme.example.com/x/",
        "npm_config_@plain:registry": "https://registry.example.com/",
    }
    assert indexes.known[NPM].guarded == ("npm.acme.example.com",)


INJECT = 'terminate: true, inject: {Authorization: "secret://x"}'
GUARDED = """
schema: sandbox-policy/v1
roles: {basic: {code: {egress: p, languages: {python: {}}}}}
egress: {profiles: {p: {allow: [RULES]}}}
"""


@pytest.mark.parametrize(
    ("rules", "passes"),
    [
        ('"@python-index"', False),
        ('{hosts: ["@python-index"], terminate: true, cache: true}', False),
        ('{hosts: ["two.example.com"], INJECT}, "@python-index"', False),
        ('{hosts: ["three.example.com:8443"], INJECT}, "@python-index"', True),
        ('"index.example.com"', True),
    ],
)  # fmt: skip
def test_an_index_with_credentials_needs_a_rule_that_sends_some_or_the_start_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rules: str, passes: bool
) -> None:
    tools = Tools("https://index.example.com/simple", "https://files.example.net/a/b.whl", PIP_CONFIG)
    indexes = Indexes(tmp_path / "egress", ask=tools)
    text = GUARDED.replace("RULES", rules.replace("INJECT", INJECT))
    policy = parse_policy(text.encode(), source="x", aliases=indexes.resolve)
    settings = Settings(tmp_path / "policy.yaml", tmp_path)
    if passes:
        told = trust_of(settings, policy).environment
        assert "hunter2" not in str(told)
    else:
        with pytest.raises(ConfigError, match=r"three\.example\.com:8443, for which pip") as refused:
            trust_of(settings, policy)
        assert "hunter2" not in refused.value.message + refused.value.hint
    assert "hunter2" not in caplog.text
    assert all("hunter2" not in file.read_text() for file in tmp_path.rglob("*.json"))


def test_what_pip_complains_of_is_shown_without_passwords(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(command: Sequence[str], environment: Mapping[str, str]) -> str:
        raise OSError("could not fetch https://me:hunter2@index.example.com/simple: 401")

    with pytest.raises(ValueError, match=r"https://index\.example\.com") as failed:
        Indexes(tmp_path, ask=broken).resolve(PYTHON)
    assert "hunter2" not in str(failed.value) + caplog.text


def test_where_files_are_is_asked_once(tmp_path: Path) -> None:
    tools = Tools("https://index.example.com/simple", "https://files.example.net/a/b.whl")
    Indexes(tmp_path, ask=tools).resolve(PYTHON)
    again = Indexes(tmp_path, ask=tools).resolve(PYTHON)
    assert again == ("index.example.com", "files.example.net")
    assert tools.searches == 1
    tools.index = "https://other.example.com/simple"
    Indexes(tmp_path, ask=tools).resolve(PYTHON)
    assert tools.searches == 2


def test_an_index_that_does_not_answer_is_still_the_index(tmp_path: Path) -> None:
    tools = Tools("https://index.example.com/simple", "down")
    assert Indexes(tmp_path, ask=tools).resolve(PYTHON) == ("index.example.com",)
    tools.files = "https://files.example.net/a.whl"
    assert Indexes(tmp_path, ask=tools).resolve(PYTHON) == ("index.example.com", "files.example.net")


@pytest.mark.parametrize("said", ["", "nonsense", "file:///opt/simple", "ftp://x/", "https://in valid/"])
def test_an_index_that_is_none_is_an_error_of_the_policy_at_its_place(tmp_path: Path, said: str) -> None:
    text = """
schema: sandbox-policy/v1
roles: {basic: {code: {egress: p, languages: {python: {}}}}}
egress: {profiles: {p: {allow: ["@python-index"]}}}
"""
    indexes = Indexes(tmp_path, ask=Tools(said, "https://files.example.net/a.whl"))
    with pytest.raises(ConfigError, match="@python-index"):
        parse_policy(text.encode(), source="x", aliases=indexes.resolve)


def test_the_tools_of_this_host_are_understood(tmp_path: Path) -> None:
    indexes = Indexes(tmp_path)
    for alias in (PYTHON, NPM):
        assert indexes.resolve(alias)
    assert {"PIP_INDEX_URL", "npm_config_registry"} <= set(indexes.environment)

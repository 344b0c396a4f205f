"""Where secrets come from, and that they show nowhere."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sandbox_server.access.secrets import Secrets
from sandbox_server.errors import ConfigError

VALUE = "Bearer 0123456789abcdef"


def test_a_secret_comes_from_its_variable() -> None:
    secrets = Secrets({"SANDBOX_SECRET_GH_TOKEN": VALUE, "GH_TOKEN": "not this one"})
    assert secrets.get("secret://gh-token") == VALUE
    assert secrets.get("gh_token") == VALUE


def test_or_from_its_file_which_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "gh_token"
    file.write_text(f"{VALUE}\n")
    file.chmod(0o600)
    secrets = Secrets({}, tmp_path)
    assert secrets.get("secret://gh_token") == VALUE
    file.write_text("another value\r\n")
    assert secrets.get("gh_token") == "another value"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "token"
    file.write_text(VALUE)
    file.chmod(mode)
    with pytest.raises(ConfigError, match="others") as refused:
        Secrets({}, tmp_path).get("token")
    assert VALUE not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["", "../etc/passwd", "a/b", "/etc/passwd", ".", "..", "a" * 65, "a\0b", "secret://", "1a"]
)
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        Secrets({}, tmp_path).get(name)


@pytest.mark.parametrize(
    "value", ["tiny", "", "line\r\nX: injected", "with\0nul", "ümlautümlaut", " spaces around it "]
)
def test_a_value_that_is_no_header_or_too_short_to_redact_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII") as refused:
        Secrets({"SANDBOX_SECRET_T": value}).get("t")
    assert not value or value not in str(refused.value)


@pytest.mark.parametrize("value", ["Bearer 1234567", "token abc1234", "Basic YTpiYw=="[:13]])
def test_credentials_too_short_to_redact_are_refused_though_their_scheme_makes_them_longer(
    value: str,
) -> None:
    with pytest.raises(ConfigError, match="credentials of fewer") as refused:
        Secrets({"SANDBOX_SECRET_T": value}).get("t")
    assert value.split()[1] not in f"{refused.value}{refused.value.hint}"


def test_a_phrase_of_short_words_is_a_secret_like_any_other() -> None:
    assert Secrets({"SANDBOX_SECRET_T": "a phrase of words"}).get("t") == "a phrase of words"


def test_an_absent_one_says_where_to_put_it(tmp_path: Path) -> None:
    for secrets in (Secrets({}), Secrets({}, tmp_path)):
        with pytest.raises(ConfigError, match="SANDBOX_SECRET_GH_TOKEN"):
            secrets.get("gh_token")


def test_a_directory_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    with pytest.raises(ConfigError, match="can't be read"):
        Secrets({}, tmp_path).get("token")


def test_the_store_shows_nothing() -> None:
    secrets = Secrets({"SANDBOX_SECRET_T": VALUE})
    assert VALUE not in f"{secrets!r}{secrets}"
    with pytest.raises(TypeError):
        pickle.dumps(secrets)

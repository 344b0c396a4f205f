from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from sandbox_server.observe.logs import Level, setup_logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(level: Level = "info", /, **fields: Any) -> dict[str, Any]:
    stream = io.StringIO()
    setup_logs(level, stream=stream)
    structlog.get_logger("here").info("said", **fields)
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)
    assert isinstance(record, dict)
    return record


def test_a_record_is_one_json_object_with_time_level_and_logger() -> None:
    record = logged(languages=("python", "bash"), count=3)
    assert (record["event"], record["level"], record["logger"]) == ("said", "info", "here")
    assert (record["languages"], record["count"]) == (["python", "bash"], 3)
    assert record["timestamp"].endswith("Z")


@pytest.mark.parametrize("key", ["token", "Authorization", "db_password", "api-key", "client_secret", "dsn"])
def test_a_secret_is_left_out_by_its_key(key: str) -> None:
    record = logged(headers={key: "hunter2-hunter2"})
    assert record["headers"] == {key: "[secret]"}


@pytest.mark.parametrize("text", ["Bearer abcdef0123456789", "postgres://user:hunter2@host/db"])
def test_a_secret_is_left_out_of_text(text: str) -> None:
    record = logged(detail=text)
    assert "[secret]" in record["detail"]
    assert "hunter2" not in record["detail"]
    assert "abcdef" not in record["detail"]


@pytest.mark.parametrize(
    "hostile", ["\x1b]52;c;AAAA\x07", "a\nfake line", "\r", "\u202eabc", "\x9b31m", "\ud800"]
)
def test_control_characters_are_shown_and_not_sent(hostile: str) -> None:
    for stream in (io.StringIO(), Terminal()):
        setup_logs("info", stream=stream)
        structlog.get_logger("here").info("said", text=hostile)
        written = stream.getvalue().removesuffix("\n")
        assert not any(character in written for character in "\x07\n\r\u202e\x9b\ud800")
        assert "\x1b]" not in written


def test_a_long_text_is_cut_and_says_so() -> None:
    assert logged(text="x" * 100_000)["text"].endswith("(98000 characters more)")


def test_the_standard_library_logs_the_same_way() -> None:
    stream = io.StringIO()
    setup_logs("warning", stream=stream)
    logging.getLogger("lib").warning("%s says %s", "it", "\x1b[0m")
    logging.getLogger("lib").info("not shown")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "it says \\x1b[0m"


def test_a_traceback_holds_no_local_variables() -> None:
    for stream in (io.StringIO(), Terminal()):
        setup_logs("info", stream=stream)
        hidden = "value-of-a-local"
        try:
            raise RuntimeError(str(len(hidden)))
        except RuntimeError:
            structlog.get_logger("here").exception("failed")
        assert "RuntimeError: 16" in stream.getvalue()
        assert hidden not in stream.getvalue().replace('hidden = "value-of-a-local"', "")

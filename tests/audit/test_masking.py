"""What may stand in the log, whatever a caller sent."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.audit.chain import MAX_LINE, seal
from sandbox_server.audit.masking import AuditRules, Masking

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=20,
)


def cleaned(args: Any, *, rules: AuditRules = AuditRules(), **more: Any) -> dict[str, Any]:  # noqa: B008
    found = Masking(rules).clean({"args": args, **more})
    return found


def test_code_is_a_hash_a_text_or_nothing_as_the_policy_says() -> None:
    code = "print('é')"
    digest = hashlib.sha256(code.encode()).hexdigest()
    for keep, expected in (
        ("hash", {"sha256": digest, "bytes": len(code.encode())}),
        ("text", code),
        ("none", {"bytes": len(code.encode())}),
    ):
        rules = AuditRules(code=keep)  # type: ignore[arg-type]
        assert cleaned({"code": code, "language": "python"}, rules=rules)["args"] == {
            "code": expected,
            "language": "python",
        }


def test_sql_has_a_setting_of_its_own_that_holds_for_its_canonical_form_too() -> None:
    rules = AuditRules(sql="hash", code="text")
    found = cleaned({"query": "select 1"}, rules=rules, resource={"sql": "SELECT 1", "code": "x"})
    assert found["args"]["query"]["bytes"] == 8
    assert found["resource"]["sql"]["bytes"] == 8
    assert found["resource"]["code"] == "x"


def test_what_the_policy_masks_is_not_there_by_name_at_any_depth_or_by_path() -> None:
    rules = AuditRules(mask=("X-Customer", "params.password"), sql="text")
    args = {
        "headers": {"x-customer": "12345-private", "Accept": "text/html"},
        "params": {"password": "hunter22", "day": "2026-01-01"},
        "inner": [{"X-CUSTOMER": "12345-private"}],
    }
    text = json.dumps(cleaned(args, rules=rules))
    assert "private" not in text
    assert "hunter22" not in text
    assert "text/html" in text
    assert "2026-01-01" in text


def test_secrets_are_masked_though_the_policy_forgot_them() -> None:
    args = {
        "headers": {"Authorization": "Bearer abcdefghijkl", "Cookie": "sid=1", "X-Api-Key": "k-1-2-3"},
        "url": "https://user:pa55word@example.com/a?token=t0ps3cret&page=2",
        "token": 123456789,
    }
    rules = AuditRules(query="text")
    text = json.dumps(cleaned(args, rules=rules, message="sent Basic dXNlcjpwYXNzd29yZA== to it"))
    assert "page=2" in text
    for secret in ("abcdefghijkl", "sid=1", "k-1-2-3", "pa55word", "t0ps3cret", "dXNlcjpwYX", "123456789"):
        assert secret not in text


def test_what_a_url_asks_for_is_a_hash_a_text_or_nothing_as_the_policy_says() -> None:
    url = "https://example.com/people?name=Ada&born=1815#top"
    digest = hashlib.sha256(b"name=Ada&born=1815#top").hexdigest()
    for keep, expected in (
        ("hash", f"https://example.com/people?sha256={digest}&bytes=22"),
        ("text", url),
        ("none", "https://example.com/people?bytes=22"),
    ):
        rules = AuditRules(query=keep)  # type: ignore[arg-type]
        found = cleaned({"url": url, "method": "GET"}, rules=rules, resource={"url": url})
        assert found["args"]["url"] == found["resource"]["url"] == expected
    grep = cleaned({"uri": "run://a1/stdout?grep=Ada"}, resource={"uri": "run://a1/stdout?grep=Ada"})
    assert "Ada" not in json.dumps(grep)
    assert cleaned({"url": "https://example.com/a"})["args"]["url"] == "https://example.com/a"


@pytest.mark.parametrize(
    "args",
    [
        pytest.param({"content_base64": "QWRh"}, id="a file that is written"),
        pytest.param({"data_base64": "QWRh"}, id="what a process reads"),
        pytest.param({"command": ["python", "-c", "Ada"]}, id="a process"),
        pytest.param({"env": {"WHO": "Ada"}}, id="its environment"),
        pytest.param({"args": ["Ada"]}, id="a program's arguments"),
    ],
)
def test_what_goes_into_a_program_is_kept_like_code(args: dict[str, Any]) -> None:
    def kept(rules: AuditRules) -> bool:
        text = json.dumps(cleaned(args, rules=rules))
        return "Ada" in text or "QWRh" in text

    assert not kept(AuditRules())
    assert not kept(AuditRules(code="none"))
    assert kept(AuditRules(code="text"))


def test_values_for_a_statement_are_kept_like_sql() -> None:
    args = {"query": "select :who", "params": {"who": "Ada"}}
    assert "Ada" not in json.dumps(cleaned(args))
    assert cleaned(args, rules=AuditRules(sql="text"))["args"]["params"] == {"who": "Ada"}


def test_the_values_of_known_secrets_are_taken_out_of_every_text() -> None:
    masking = Masking(AuditRules(code="text"), lambda text: text.replace("s3cr3t", "[secret]"))
    found = masking.clean(
        {"args": {"code": "a = 's3cr3t'"}, "message": "no s3cr3t here", "trace": ["s3cr3t"]}
    )
    assert "s3cr3t" not in json.dumps(found)


@given(anything, st.sampled_from(["hash", "text", "none"]))
def test_whatever_is_sent_makes_one_bounded_line(value: Any, keep: Any) -> None:
    found = Masking(AuditRules(code=keep, sql=keep)).clean(
        {"args": value, "resource": {"code": value, "sql": value, "path": value}, "message": str(value)}
    )
    line, _ = seal(found, 1, "0" * 64)
    assert len(line) <= MAX_LINE
    assert line.count(b"\n") == 1


def test_hostile_sizes_are_cut_and_say_so() -> None:
    deep: Any = "bottom"
    for _ in range(100):
        deep = [deep]
    args = {
        "path": "p" * 10**6,
        "deep": deep,
        "many": list(range(10_000)),
        "keys": {str(n): 1 for n in range(999)},
    }
    found = cleaned(args)
    assert "998000 characters more" in found["args"]["path"]
    assert found["args"]["many"][-1] == "... 9800 more"
    assert found["args"]["keys"]["..."] == "799 more"
    assert "too deep" in json.dumps(found["args"]["deep"])


def test_a_record_that_is_large_in_every_part_still_fits_on_a_line() -> None:
    huge = {f"k{n}": {f"i{m}": "\x00" * 2000 for m in range(50)} for n in range(50)}
    found = cleaned(huge, resource=huge, trace=["\x00" * 2000] * 200, decision="deny", rule="r")
    line, _ = seal(found, 1, "0" * 64)
    assert len(line) <= MAX_LINE
    assert (found["decision"], found["rule"]) == ("deny", "r")


def test_control_characters_are_escapes_in_the_file() -> None:
    line, _ = seal(cleaned({"path": "\x1b[2J\x7f\u202e\nfake"}), 1, "0" * 64)
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])

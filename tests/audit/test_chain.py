"""The proof: whatever is done to one line of the log, `verify` names the place."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_server.audit.chain import GENESIS, Broken, seal, unseal
from sandbox_server.audit.files import LogFiles
from sandbox_server.audit.verify import Proof, log_files, read_entries, verify
from sandbox_server.errors import ConfigError

COUNT = 12
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def written(directory: Path) -> list[Path]:
    """A log of 13 lines in several files."""
    files = LogFiles(directory, stamp=dict, max_bytes=600, keep=100)
    files.open()
    for number in range(COUNT):
        files.append([{"kind": "decision", "tool": f"tool-{number}"}])
    files.close()
    found = log_files([directory])
    assert len(found) > 2
    return found


@pytest.fixture
def log(tmp_path: Path) -> list[Path]:
    return written(tmp_path)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.integers(1, 10**9))
def test_a_line_says_what_was_sealed_in_one_ascii_line(fields: dict[str, object], seq: int) -> None:
    line, digest = seal(fields, seq, GENESIS)
    assert line.count(b"\n") == 1
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    link = unseal(line[:-1])
    assert (link.seq, link.previous, link.hash) == (seq, GENESIS, digest)
    assert link.fields == {k: v for k, v in fields.items() if k not in ("seq", "prev_hash", "hash")}


@given(st.binary(max_size=400))
def test_no_bytes_make_reading_a_line_fail_otherwise(raw: bytes) -> None:
    with pytest.raises(Broken):
        unseal(raw)


def test_an_untouched_log_holds_and_shows_its_head(log: list[Path]) -> None:
    proof = verify(log)
    assert proof.holds
    assert (proof.first, proof.last, proof.lines) == (1, COUNT + 1, COUNT + 1)
    assert proof.head == unseal(log[-1].read_bytes().splitlines()[-1]).hash


@settings(max_examples=300)
@given(data=st.data())
def test_any_change_of_one_byte_is_found_at_its_line(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        files = written(Path(directory))
        path = data.draw(st.sampled_from(files))
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        proof = verify(files)
        last_end = path == files[-1] and at == len(raw) - 1
        if last_end:  # the end of the last line: like a line that a crash cut
            assert proof.torn
            return
        assert proof.broken
        assert proof.broken.file == str(path)
        assert proof.broken.line == raw[:at].count(b"\n") + 1


@settings(max_examples=200)
@given(data=st.data())
def test_lines_removed_repeated_or_exchanged_are_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        files = written(Path(directory))
        whole = [line for path in files for line in path.read_bytes().splitlines(keepends=True)]
        changed = list(whole)
        at = data.draw(st.integers(0, len(whole) - 2))
        other = data.draw(st.integers(0, len(whole) - 1).filter(lambda n: n != at))
        match data.draw(st.sampled_from(["remove", "repeat", "exchange", "forge"])):
            case "remove" if at > 0:  # the first ones may be gone: rotation drops them
                del changed[at]
            case "repeat":
                changed.insert(other, whole[at])
            case "exchange":
                changed[at], changed[other] = changed[other], changed[at]
            case _:
                link = unseal(whole[at][:-1])
                changed[at] = seal({"tool": "forged"}, link.seq, link.previous)[0]
        one = Path(directory) / "one.jsonl"
        one.write_bytes(b"".join(changed))
        proof = verify([one])
        assert proof.broken
        differing = next(n for n, pair in enumerate(zip(changed, whole, strict=False)) if pair[0] != pair[1])
        assert proof.broken.line in (differing + 1, differing + 2)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda lines: [*lines[:3], *lines[5:]], "2 lines are missing before it: it is number 6, not 4"),
        (lambda lines: [*lines[:3], lines[1], *lines[3:]], "out of order or put in: it is number 2"),
        (lambda lines: [lines[0], *lines[1:3], b"{}\n", *lines[3:]], "not a line of this log"),
    ],
)
def test_the_first_broken_line_is_named_with_what_is_wrong(
    log: list[Path], change: object, what: str
) -> None:
    whole = [line for path in log for line in path.read_bytes().splitlines(keepends=True)]
    log[0].write_bytes(b"".join(change(whole)))
    proof = verify([log[0]])
    assert proof.broken
    assert proof.broken.line == 4
    assert what in proof.broken.what


def test_a_file_that_is_missing_in_the_middle_is_found(log: list[Path]) -> None:
    proof = verify([*log[:1], *log[2:]])
    assert proof.broken
    assert (proof.broken.file, proof.broken.line) == (str(log[2]), 1)
    assert "missing" in proof.broken.what


def test_lines_cut_off_the_end_show_only_against_a_head_that_was_kept(log: list[Path]) -> None:
    head = verify(log).head
    cut = log[:-1]
    assert verify(cut).holds
    proof = verify(cut, head=head)
    assert proof.broken
    assert "cut off the end" in proof.broken.what
    assert verify(log, head=verify(cut).head).head_at == verify(cut).last


def test_the_oldest_files_may_be_gone_and_the_proof_says_where_it_begins(log: list[Path]) -> None:
    proof = verify(log[1:])
    assert proof.holds
    assert proof.first > 1


def test_what_is_learned_from_a_log_comes_from_whole_lines_only(log: list[Path]) -> None:
    assert [entry.get("tool") for entry in read_entries(log)][1:] == [f"tool-{n}" for n in range(COUNT)]
    log[0].write_bytes(log[0].read_bytes().replace(b"tool-0", b"tool-9"))
    with pytest.raises(ConfigError, match=r"decisions-00000001.jsonl:2: the line was changed"):
        list(read_entries(log))


def test_a_tail_that_was_tampered_with_is_not_written_over(tmp_path: Path) -> None:
    last = written(tmp_path)[-1]
    tampered = last.read_bytes().replace(b"decision", b"decoy--n")
    last.write_bytes(tampered)
    files = LogFiles(tmp_path, stamp=dict)
    files.open()
    files.close()
    assert last.read_bytes() == tampered
    proof = verify([tmp_path])
    assert isinstance(proof, Proof)
    assert proof.broken
    assert proof.broken.file == str(last)


def test_nothing_to_verify_is_an_error_not_a_proof(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no decision log"):
        verify([tmp_path])
    with pytest.raises(ConfigError, match="No such file"):
        verify([tmp_path / "absent.jsonl"])

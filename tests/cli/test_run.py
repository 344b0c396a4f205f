"""`run`: what a shell sees of a program in a sandbox."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from .conftest import Deployment


def test_stdout_and_stderr_come_apart_and_nothing_is_added_to_stdout(deployment: Deployment) -> None:
    done = deployment.run("run", "-", input="import sys; print('out'); print('err', file=sys.stderr)")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 0)
    assert deployment.containers() == set()


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("1/0", 1, "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 139, "SIGSEGV"),
        ("while True: pass", 124, "ended by timeout (wall limit)"),
        ("x = [1] * 10**9", 137, "ended by out of memory"),
    ],
)
def test_the_exit_status_tells_how_the_program_ended(
    deployment: Deployment, code: str, status: int, said: str
) -> None:
    done = deployment.run("run", "--timeout", "2", "-", input=code)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stdout == ""


def test_a_file_gets_its_arguments_its_stdin_and_its_files(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "import sys; print(sys.argv[1:], sys.stdin.read(), open('data.csv').read())"
    )
    (tmp_path / "in.txt").write_text("fed")
    (tmp_path / "data.csv").write_text("1,2")
    given = ["--stdin", str(tmp_path / "in.txt"), "--file", str(tmp_path / "data.csv")]
    done = deployment.run("run", *given, str(tmp_path / "main.py"), "--", "-x", "a b")
    assert done.stdout == "['-x', 'a b'] fed 1,2\n"


def test_the_file_s_name_tells_the_language_and_what_is_not_granted_is_said(
    deployment: Deployment, tmp_path: Path
) -> None:
    (tmp_path / "main.sh").write_text("echo hi")
    done = deployment.run("run", str(tmp_path / "main.sh"))
    assert done.returncode == 125
    assert "does not grant the language bash" in done.stderr
    assert "granted: python" in done.stderr


def test_the_other_languages_run_under_the_shipped_policy(deployment: Deployment, tmp_path: Path) -> None:
    shipped = str(Path(__file__).parents[2] / "policies" / "default.yaml")
    assert deployment.run("run", "--policy", shipped, "-l", "bash", "-", "x", input="echo $1").stdout == "x\n"
    done = deployment.run("run", "--policy", shipped, "-l", "js", "-", input="console.log(1n << 64n)")
    assert done.stdout == "18446744073709551616n\n"


def test_the_last_expression_s_value_is_shown_beside_stdout(deployment: Deployment) -> None:
    done = deployment.run("run", "-", input="41 + 1")
    assert (done.stdout, done.stderr) == ("", "=> 42\n")


def test_json_holds_the_whole_result_and_is_all_there_is_on_stdout(deployment: Deployment) -> None:
    done = deployment.run("run", "--json", "-", input="print('x' * 3)\n7")
    result = json.loads(done.stdout)
    assert (result["outcome"], result["exit_code"], result["value"]) == ("ok", 0, "7")
    assert result["stdout"] == {"text": "xxx\n", "total_bytes": 4, "omitted_bytes": 0}
    assert done.returncode == 0


def test_a_plot_is_saved_and_nothing_is_overwritten(deployment: Deployment, tmp_path: Path) -> None:
    code = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"
    target = tmp_path / "out"
    for _ in range(2):
        done = deployment.run("run", "--output-dir", str(target), "-", input=code)
        assert done.returncode == 0, done.stderr
    images = sorted(target.iterdir())
    assert len(images) == 2
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)


def test_raw_bytes_go_through_a_pipe_and_are_made_visible_on_a_terminal(deployment: Deployment) -> None:
    code = "import sys; sys.stdout.buffer.write('\\x1b[31mé'.encode())"
    assert deployment.run("run", "-", input=code).stdout == "\x1b[31mé"
    assert "\\x1b[31mé" in on_terminal(deployment, code)


def on_terminal(deployment: Deployment, code: str) -> str:
    master, slave = pty.openpty()
    try:
        command = deployment.command("run", "-")
        subprocess.run(
            command, input=code.encode(), stdout=slave, stderr=slave, env=deployment.environ, timeout=60
        )
        return os.read(master, 65536).decode()
    finally:
        os.close(slave)
        os.close(master)


def test_a_gigabyte_of_output_stops_at_the_limit_and_says_so(deployment: Deployment) -> None:
    done = subprocess.run(
        [*deployment.command("run", "-")],
        input=b"import sys\nwhile True: sys.stdout.write('x' * 65536)",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=deployment.environ,
        timeout=60,
    )
    assert b"ended by output limit" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("args", "code", "complaint"),
    [
        (["--timeout", "0"], "1", "timeout 0 is too small"),
        (["--timeout", "-1"], "1", "timeout -1 is too small"),
        (["--timeout", "nan"], "1", "timeout nan is too small"),
        (["--timeout", "1e9"], "1", "above the limit"),
        (["--language", "cobol"], "1", "unknown language cobol"),
        ([], "", "code is empty"),
        ([], b"\xff\xfe", "is not UTF-8"),
        (["--file", "/nonexistent"], "1", "/nonexistent: No such file"),
    ],
)
def test_a_bad_request_is_an_error_of_ours_and_not_of_the_program(
    deployment: Deployment, args: list[str], code: str | bytes, complaint: str
) -> None:
    done = deployment.run("run", *args, "-", input=code)
    assert done.returncode == 125
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert done.stdout == ""


def test_a_failure_of_ours_is_json_too_when_json_was_asked_for(deployment: Deployment) -> None:
    done = deployment.run("run", "--json", "-", input="1", DOCKER_HOST="unix:///nonexistent")
    assert json.loads(done.stdout)["failed"]["code"] == "engine_unavailable"
    assert done.returncode == 69


def test_options_may_follow_the_file(deployment: Deployment) -> None:
    done = deployment.run(
        "run", "-", "--language", "python", "--timeout", "30", "--json", input="print(6 * 7)"
    )
    result = json.loads(done.stdout)
    assert (result["outcome"], result["exit_code"]) == ("ok", 0)
    assert "42" in json.dumps(result["stdout"])

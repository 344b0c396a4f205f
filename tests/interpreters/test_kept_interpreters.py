"""Node and bash keep their state between cells as Python does, and nothing else of a cell is left."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import Run
from tests.hostile.lab import Lab

pytestmark = pytest.mark.anyio


# --- node


async def test_node_keeps_variables_and_lets_them_be_declared_again(cell: Run) -> None:
    await cell("const x = 1; let y = 2; function f() { return x + y; } class A {}", "javascript")
    result = await cell("const x = 10; [f(), await 5, typeof A]", "javascript")
    assert (result.outcome, result.value) == ("ok", "[ 12, 5, 'function' ]")


async def test_node_takes_imports_of_all_kinds(cell: Run) -> None:
    await cell(
        "import fs, { readFileSync as read } from 'fs';\nimport * as path from 'node:path';", "javascript"
    )
    code = "[typeof fs.readFileSync, typeof read, path.join('a', 'b'), (await import('os')).EOL, "
    code += "typeof require('os')]"
    assert (await cell(code, "javascript")).value == "[ 'function', 'function', 'a/b', '\\n', 'object' ]"


async def test_node_waits_for_what_a_cell_has_begun(cell: Run) -> None:
    code = (
        "async function main() { await new Promise((r) => setTimeout(r, 30)); console.log('late'); }\nmain();"
    )
    result = await cell(code, "javascript")
    assert (result.stdout.text, result.value) == ("late\n", None)


async def test_node_shows_the_users_lines_and_no_others(cell: Run) -> None:
    result = await cell("const a = 1;\nfunction f() {\n  throw new TypeError('no');\n}\nf();", "javascript")
    assert (result.outcome, result.exit_code) == ("error", 1)
    assert result.stderr.text == "Uncaught TypeError: no\n    at f (main.js:3:9)\n    at main.js:5:1\n"
    wrong = await cell("let a = 1;\nlet b = ;", "javascript")
    assert wrong.stderr.text.startswith("cell-2.js:2:9\nlet b = ;\n        ^\nUncaught SyntaxError")
    assert "/opt/" not in wrong.stderr.text


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("process.exit(3)", 3),
        ("process.exitCode = 4", 4),
        ("Promise.reject(new Error('no'))", 1),
        ("setTimeout(() => { throw new Error('no'); }, 1)", 1),
        ("await new Promise(() => {})", 13),
    ],
)
async def test_node_survives_the_end_of_a_cell(cell: Run, code: str, exit_code: int) -> None:
    await cell("const kept = 7;", "javascript")
    result = await cell(code, "javascript")
    assert (result.outcome, result.exit_code, result.session.state) == ("error", exit_code, "kept")
    assert (await cell("kept", "javascript")).value == "7"


async def test_node_gets_stdin_and_arguments_anew_in_each_cell(cell: Run) -> None:
    code = "console.log(require('fs').readFileSync(0, 'utf8'), process.argv.slice(2));"
    for stdin, args in ((b"one", ("a b",)), (b"two", ()), (b"", ("",))):
        result = await cell(code, "javascript", stdin=stdin, args=args)
        shown = "[ " + ", ".join(f"'{arg}'" for arg in args) + " ]" if args else "[]"
        assert result.stdout.text == f"{stdin.decode()} {shown}\n"


async def test_node_writes_all_of_a_large_output(cell: Run) -> None:
    result = await cell("process.stdout.write('x'.repeat(1000000)); console.log('end');", "javascript")
    assert result.stdout.total_bytes == 1_000_004
    assert result.stdout.text.endswith("end\n")


async def test_typescript_shares_nodes_variables(cell: Run) -> None:
    await cell("interface P { x: number }\nenum E { A = 5 }\nconst p: P = { x: E.A };", "typescript")
    assert (await cell("p.x + E.A", "javascript")).value == "10"
    await cell("import * as os from 'os';", "typescript")
    result = await cell(
        "const n: string = os.EOL;\n\n\nfunction f(v: string) { throw new Error(v); }\nf('no');", "typescript"
    )
    assert "at f (cell-4.ts:4:31)\n    at cell-4.ts:5:1\n" in result.stderr.text


async def test_typescript_that_does_not_compile_is_not_run_and_keeps_the_state(cell: Run) -> None:
    await cell("const kept = 7;", "typescript")
    result = await cell("console.log('ran'); let z: = 3;", "typescript")
    assert (result.outcome, result.exit_code, result.session.state) == ("compile_error", 1, "kept")
    assert (result.stdout.text, "main.ts:1:27" in result.stderr.text) == ("", True)
    assert (await cell("kept", "typescript")).value == "7"


async def test_typescript_in_a_sandbox_of_its_own(run: Run) -> None:
    code = "import { EOL, type CpuInfo } from 'os';\nconst x: number = await Promise.resolve(3);\n"
    code += "console.log(x, EOL.length);\nthrow new Error('no');"
    result = await run(code, "typescript")
    assert (result.outcome, result.stdout.text) == ("error", "3 1\n")
    assert "/tmp/.sandbox/main.ts:4:7" in result.stderr.text
    assert (await run("let z: = 3;", "typescript")).outcome == "compile_error"


# --- bash


async def test_bash_keeps_variables_functions_and_where_it_is(cell: Run) -> None:
    await cell("x=5; declare -A m=([a]=1); f() { echo f $x ${m[a]} $1; }; mkdir d; cd d", "bash")
    result = await cell('f "$1"; pwd; cat; nosuch', "bash", args=("a  b",), stdin=b"in\n")
    assert result.stdout.text == "f 5 1 a b\n/workspace/d\nin\n"
    assert result.stderr.text == "/tmp/.sandbox/main.sh: line 1: nosuch: command not found\n"
    assert (result.exit_code, result.session.state) == (127, "kept")


@pytest.mark.parametrize("code", ["exit 4", "set -e\n(exit 4)\necho never", "exec bash -c 'exit 4'"])
async def test_bash_that_ends_says_that_its_state_is_gone(cell: Run, code: str) -> None:
    await cell("kept=7", "bash")
    result = await cell(f"echo out; {code}", "bash")
    assert (result.outcome, result.exit_code, result.stdout.text) == ("error", 4, "out\n")
    assert (result.session.state, "variables are gone" in result.session.note) == ("reset", True)
    after = await cell("echo ${kept-None}", "bash")
    assert (after.stdout.text, after.session.state) == ("None\n", "kept")


async def test_options_of_one_bash_cell_do_not_end_or_blur_the_next(cell: Run) -> None:
    first = await cell("set -euxo pipefail; trap 'echo dbg' DEBUG; x=1", "bash")
    assert first.outcome == "ok"
    assert "sandbox" not in first.stderr.text
    second = await cell("false | true; echo $unknown$x", "bash")
    assert (second.outcome, second.stdout.text, second.stderr.text) == ("ok", "1\n", "")


# --- all of them


@pytest.mark.parametrize(("language", "start"), [("javascript", "node"), ("bash", "bash")])
async def test_what_a_cell_has_started_is_gone_when_it_ends(
    lab: Lab, cell: Run, mark: str, language: str, start: str
) -> None:
    script = f"exec -a {mark} sleep 60"
    code = {
        "bash": f"(setsid bash -c '{script}' &) ; sleep 0.1; kept=7",
        "javascript": f"require('child_process').spawn('bash', ['-c', '{script}'],"
        " { detached: true, stdio: 'ignore' }).unref();",
    }[language]
    assert (await cell(code, language)).outcome == "ok"
    assert [
        process for process in lab.processes() if process.name == "sleep" and process.state not in "ZX"
    ] == []


async def test_languages_of_one_sandbox_keep_their_states_side_by_side(cell: Run) -> None:
    await cell("x = 1; open('/workspace/f', 'w').write('file')", "python")
    first = await cell("x=2; cat f", "python-bash")
    assert (first.stdout.text, first.session.state) == ("file", "kept")
    assert (await cell("print(x)", "python")).stdout.text == "1\n"
    last = await cell("echo $x", "python-bash")
    assert (last.stdout.text, last.session.state) == ("2\n", "kept")


@pytest.mark.parametrize(
    ("language", "code"),
    [
        (
            "javascript",
            "require('fs').writeSync(61, 'deadbeefdeadbeef 0'); setTimeout(() => console.log('ran on'), 50);",
        ),
        ("bash", "echo -n 'deadbeefdeadbeef 0' > /proc/$$/fd/61; sleep 0.05; echo ran on"),
    ],
)
async def test_a_forged_report_ends_nothing(cell: Run, language: str, code: str) -> None:
    result = await cell(code, language)
    assert result.stdout.text == "ran on\n"
    assert (
        await cell("console.log(1)" if language == "javascript" else "echo 1", language)
    ).stdout.text == "1\n"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("javascript", "require('fs').closeSync(61); console.log('out');"),
        ("javascript", "for (const fd of [0, 1, 2, 60]) require('fs').closeSync(fd);"),
        ("bash", "unset -f source; exec 1>&- 2>&-; __sandbox_pid=/nosuch; read() { :; }; echo out"),
    ],
)
async def test_a_cell_that_breaks_its_driver_breaks_nothing_else(cell: Run, language: str, code: str) -> None:
    await cell(code, language, wall=1)
    get = {"javascript": "console.log(1)", "bash": "echo 1"}[language]
    results = [await cell(get, language, wall=1) for _ in range(2)]
    assert results[-1].stdout.text == "1\n"

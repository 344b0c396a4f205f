"""Each language runs a program that takes an argument and standard input, and compilers say what is wrong."""

from __future__ import annotations

import pytest

from sandbox_server.execution.languages import LANGUAGES
from tests.hostile.conftest import Run
from tests.hostile.lab import Lab

pytestmark = pytest.mark.anyio

PROGRAMS = {
    "bash": 'read x; echo "$1 $x"; exit 3',
    "c": '#include <stdio.h>\n#include <math.h>\nint main(int n, char **a) { char b[9]; scanf("%8s", b);'
    ' printf("%s %s\\n", a[1], b); return (int)sqrt(9); }',
    "cpp": "#include <iostream>\n#include <ranges>\nint main(int n, char **a) { std::string s; std::cin >> s;"
    ' std::cout << a[1] << " " << s << "\\n"; return 3; }',
    "go": 'package main\nimport (\n"fmt"\n"net/http"\n"os"\n)\nfunc main() { var s string; fmt.Scan(&s);'
    " fmt.Println(os.Args[1], s); os.Exit(http.StatusOK - 197) }",
    "rust": "use std::{env, io, process};\nfn main() { let mut s = String::new();"
    " io::stdin().read_line(&mut s).unwrap();"
    ' println!("{} {}", env::args().nth(1).unwrap(), s.trim()); process::exit(3) }',
    "java": "import java.util.*;\npublic class Anything {\n  static class Inner {}\n"
    "  public static void main(String[] a) {"
    ' System.out.println(a[0] + " " + new Scanner(System.in).next()); System.exit(3); } }',
    "ruby": 'puts "#{ARGV[0]} #{STDIN.gets.strip}"; exit 3',
    "php": '<?php echo $argv[1], " ", trim(fgets(STDIN)), "\\n"; exit(3);',
    "perl": 'my $x = <STDIN>; chomp $x; print "$ARGV[0] $x\\n"; exit 3;',
    "lua": "print(arg[1], io.read()); os.exit(3)",
    "r": 'cat(commandArgs(TRUE)[1], readLines(file("stdin"), 1), "\\n"); quit(status = 3)',
}
WRONG = {
    "c": ("int main() {\n  return x; }", "main.c:2:10: error"),
    "cpp": ("int main() {\n  return x; }", "main.cpp:2:10: error"),
    "go": ("package main\nfunc main() { x := 1 }", "main.go:2:15: declared and not used: x"),
    "rust": ('fn main() {\n  let x: i32 = "a"; }', "main.rs:2:16"),
    "java": ('public class A {\n  int x = "a"; }', "A.java:2: error"),
}


def test_every_language_of_the_image_has_a_program_here() -> None:
    assert PROGRAMS.keys() - {"bash"} == {name for name, one in LANGUAGES.items() if one.image == "polyglot"}
    assert {name for name in PROGRAMS if LANGUAGES[name].build} == WRONG.keys()


@pytest.mark.parametrize("language", PROGRAMS)
async def test_a_program_runs(run: Run, language: str) -> None:
    result = await run(PROGRAMS[language], language, wall=30, args=("arg",), stdin=b"in\n")
    assert (result.outcome, result.exit_code) == ("error", 3), result.stderr.text
    assert result.stdout.text.split() == ["arg", "in"]
    assert result.stderr.text == ""


@pytest.mark.parametrize("language", WRONG)
async def test_what_does_not_compile_is_told_with_the_compilers_words_and_not_run(
    run: Run, language: str
) -> None:
    code, message = WRONG[language]
    result = await run(code, language, wall=30)
    assert (result.outcome, result.limit, result.stdout.text) == ("compile_error", None, "")
    assert result.exit_code != 0
    assert message in result.stderr.text


@pytest.mark.parametrize(
    ("code", "prints"),
    [
        ("class A {}\nclass B { public static void main(String[] a) { System.out.println(1); } }", "1\n"),
        ("package p.q;\nrecord R(int x) {}\npublic class Z { public static void main(String... a) {"
         " System.out.println(new R(2)); } }", "R[x=2]\n"),
        ("interface I { static void main(String[] a) { System.out.println(3); } }", "3\n"),
    ],
)  # fmt: skip
async def test_a_java_file_may_name_its_classes_as_it_likes(run: Run, code: str, prints: str) -> None:
    assert (await run(code, "java", wall=30)).stdout.text == prints


async def test_languages_of_a_session_share_files_and_builds_leave_no_state_behind(lab: Lab) -> None:
    write = '#include <stdio.h>\nint main() { fputs("from c", fopen("f", "w")); return 0; }'
    assert (await lab.run(write, "c", connection="s")).outcome == "ok"
    result = await lab.run("print(io.open('f'):read())", "lua", connection="s")
    assert (result.stdout.text, result.session.state) == ("from c\n", "kept")
    # The program of the call before must not run if this one does not compile.
    assert (await lab.run("int main() { return x; }", "c", connection="s")).outcome == "compile_error"
    await lab.manager.close_connection("s")


async def test_nothing_in_the_image_can_be_changed_or_raises_privileges(run: Run) -> None:
    places = r"\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /workspace \)"
    result = await run(
        rf"find / {places} -prune -o "
        r"\( -perm /6000 -o -writable ! -type l -o -path /usr/bin/python3 \) -print 2>&1",
        "bash",
    )
    assert [line for line in result.stdout.text.splitlines() if "Permission denied" not in line] == [
        "/usr/bin/python3"
    ]

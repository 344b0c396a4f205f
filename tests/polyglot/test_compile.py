"""Programs that attack while they are compiled: the limits of a run hold for its build as well."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import Run
from tests.hostile.lab import Lab, on_time

pytestmark = pytest.mark.anyio

TEMPLATES = "template <int A, int B> struct F { static const long v = F<A - 1, B>::v + F<A, B - 1>::v; };\n"
TEMPLATES += "template <int B> struct F<0, B> { static const long v = 1; };\n"
TEMPLATES += "template <int A> struct F<A, 0> { static const long v = 1; };\n"
ENDINGS = {"timeout", "out_of_memory", "compile_error"}
"""Some compilers have a limit of their own."""
MACROS = "".join(f"#define M{i} M{i - 1} M{i - 1}\n" for i in range(1, 40))
BOMB = f"#define M0 0,\n{MACROS}int a[] = {{ M39 }};"


@pytest.mark.parametrize(
    ("language", "code", "outcomes"),
    [
        ("c", BOMB, {"timeout", "out_of_memory"}),
        ("cpp", TEMPLATES + "int main() { return F<800, 800>::v; }", ENDINGS),
        ("rust", "macro_rules! m { ($($t:tt)*) => { m!($($t)* $($t)*) } }\nm!(a);\nfn main() {}", ENDINGS),
    ],
)  # fmt: skip
async def test_a_compile_time_bomb_ends_at_a_limit(
    run: Run, language: str, code: str, outcomes: set[str]
) -> None:
    """9. Macro and template expansion."""
    result = await run(code, language, wall=3)
    assert result.outcome in outcomes
    assert result.usage.wall < 4
    assert result.stdout.text == ""


async def test_a_compiler_that_never_ends_is_ended_on_time(run: Run) -> None:
    """9. Under the wall limit of the run that it belongs to."""
    result = await on_time(run, BOMB, "c", wall=0.4)
    assert result.signal == "SIGKILL"


async def test_a_bomb_of_compiler_errors_is_bounded(run: Run) -> None:
    """10. What a compiler says counts as output."""
    code = "#error no\n#include __FILE__\n#include __FILE__\n"
    result = await run(code, "c", wall=30, output=10_000)
    assert (result.outcome, result.limit) == ("output_limit", "output")
    assert result.stderr.total_bytes > 1_000_000
    assert len(result.stderr.text) < 12_000


@pytest.mark.parametrize("device", ["/dev/random", "/dev/tty", "/dev/stdin", "/proc/self/fd/0"])
async def test_including_a_device_ends(run: Run, device: str) -> None:
    """11. Endless or absent input."""
    result = await run(f'#include "{device}"\nint main() {{}}', "c", wall=2, stdin=b"#error read\n")
    assert result.outcome in {"compile_error", "timeout", "out_of_memory", "ok"}
    assert result.usage.wall < 3
    # The program's own input is not for the compiler.
    assert "error read" not in result.stderr.text


async def test_what_a_build_leaves_running_is_gone_before_the_program_starts(lab: Lab) -> None:
    """9. The processes that a program finds are its own."""
    code = '#include <stdlib.h>\nint main() { return system("ps -e -o comm= | sort"); }'
    result = await lab.run(code, "c")
    assert set(result.stdout.text.split()) <= {"python3", "main", "sh", "ps", "sort"}

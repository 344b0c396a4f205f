"""The languages: one declarative entry each. docs/languages.md says how to add one.

`mode` "fork": the runner forks its warm Python interpreter and executes the code in it.
`mode` "spawn": the runner writes the code to `file` in a directory of its own and starts `argv`, to
which the caller's `args` are added. `{file}` and `{out}` in it become paths in that directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sandbox_server.guards.packages import Ecosystem

Driver = Literal["python", "node", "bash"]


@dataclass(frozen=True, slots=True)
class Language:
    """`image`: where it runs if the policy does not say otherwise. `build`: executed first, under the same
    limits; if it fails the outcome is `compile_error`. `out`: the name of what it makes. `driver`: the
    runner's driver that keeps variables between the calls of a session (files are kept always); None:
    every call is a new process. `build_cell`: what `build` takes besides for a driver. `packages`: what
    installs packages for it.
    """

    name: str
    image: str
    mode: Literal["fork", "spawn"]
    file: str
    argv: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    driver: Driver | None = None
    build: tuple[str, ...] = ()
    out: str = "main"
    build_cell: tuple[str, ...] = ()
    packages: Ecosystem | None = None

    @property
    def stateful(self) -> bool:
        return self.driver is not None


_NODE = "/usr/bin/node"
_ESBUILD = (
    "/usr/bin/esbuild", "{file}", "--outfile={out}", "--target=node20", "--sourcemap=inline",
    "--log-level=warning",
)  # fmt: skip
# A cell may import what only a later one uses.
_KEEP_IMPORTS = '--tsconfig-raw={"compilerOptions":{"verbatimModuleSyntax":true}}'


def _polyglot(
    name: str, file: str, *argv: str, build: tuple[str, ...] = (), aliases: tuple[str, ...] = ()
) -> Language:
    return Language(name, "polyglot", "spawn", file, argv or ("{out}",), aliases, build=build)


LANGUAGES: dict[str, Language] = {
    language.name: language
    for language in (
        Language(
            "python", "python", "fork", "main.py", aliases=("py", "python3"), driver="python", packages="pip"
        ),
        Language(
            "javascript",
            "node",
            "spawn",
            "main.js",
            (_NODE, "{file}"),
            ("js", "node"),
            "node",
            packages="npm",
        ),
        Language(
            "typescript",
            "node",
            "spawn",
            "main.ts",
            (_NODE, "--enable-source-maps", "{out}"),
            ("ts",),
            "node",
            build=_ESBUILD,
            out="main.js",
            build_cell=(_KEEP_IMPORTS,),
            packages="npm",
        ),
        Language("bash", "shell", "spawn", "main.sh", ("/bin/bash", "{file}"), ("sh", "shell"), "bash"),
        _polyglot("c", "main.c", build=("/usr/bin/gcc", "-O2", "-o", "{out}", "{file}", "-lm")),
        _polyglot(
            "cpp",
            "main.cpp",
            build=("/usr/bin/g++", "-O2", "-std=c++20", "-o", "{out}", "{file}"),
            aliases=("c++", "cxx"),
        ),
        _polyglot(
            "go", "main.go", build=("/usr/local/bin/go-program", "{file}", "{out}"), aliases=("golang",)
        ),
        _polyglot(
            "rust",
            "main.rs",
            aliases=("rs",),
            build=("/usr/bin/rustc", "--edition=2021", "-Copt-level=2", "-o", "{out}", "{file}"),
        ),
        _polyglot(
            "java",
            "Main.java",
            "/usr/bin/java",
            "-cp",
            "{out}.d",
            "@{out}",
            build=("/usr/local/bin/java-program", "{file}", "{out}"),
        ),
        _polyglot("ruby", "main.rb", "/usr/bin/ruby", "{file}", aliases=("rb",)),
        _polyglot("php", "main.php", "/usr/bin/php", "{file}"),
        _polyglot("perl", "main.pl", "/usr/bin/perl", "{file}", aliases=("pl",)),
        _polyglot("lua", "main.lua", "/usr/bin/lua5.4", "{file}"),
        _polyglot("r", "main.R", "/usr/bin/Rscript", "--vanilla", "{file}"),
    )
}

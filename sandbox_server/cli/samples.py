"""The programs that the doctor runs: each says one word, so that a toolchain that is broken shows."""

from __future__ import annotations

from typing import Final

MARK: Final = "doctor"

LOOK_AROUND: Final = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
links = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
try:
    open("/usr/written", "w")
    writable = True
except OSError:
    writable = False
print(json.dumps({"uid": os.getuid(), "caps": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "no_new_privs": status["NoNewPrivs"].strip(), "seccomp": status["Seccomp"].strip(),
    "links": links, "writable": writable}))
"""
"""In Python: which of the promised walls there are, as JSON."""

WORDS: Final = {
    "python": f"print('{MARK}')",
    "javascript": f"console.log('{MARK}')",
    "typescript": f"const word: string = '{MARK}'; console.log(word)",
    "bash": f"echo {MARK}",
    "c": f'#include <stdio.h>\nint main(void) {{ puts("{MARK}"); return 0; }}',
    "cpp": f'#include <iostream>\nint main() {{ std::cout << "{MARK}" << std::endl; }}',
    "go": f'package main\nimport "fmt"\nfunc main() {{ fmt.Println("{MARK}") }}',
    "rust": f'fn main() {{ println!("{MARK}"); }}',
    "java": f'class Main {{ public static void main(String[] a) {{ System.out.println("{MARK}"); }} }}',
    "ruby": f"puts '{MARK}'",
    "php": f"<?php echo '{MARK}';",
    "perl": f"print '{MARK}';",
    "lua": f"print('{MARK}')",
    "r": f"cat('{MARK}\\n')",
}
ENDLESS: Final = {"python": "while True: pass", "javascript": "for (;;) {}", "bash": "while :; do :; done"}

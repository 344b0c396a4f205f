"""Installs packages in a sandbox, as a run of its own before the caller's, by pip or npm.

    install.py pip|npm PACKAGE...

The names were checked by the server. What is installed goes to /workspace/.packages, where Python and Node.js
look for it and which is part of the workspace's limit. Nothing of a package runs: wheels only, no scripts.
All that the package manager says goes to stderr; if it went well stdout gets one line of JSON, {"installed":
[[name, version]...]}, and the exit code is that of ENOSPC if lack of space was what went wrong.
Everything here runs as the program would, and is worth as much: the server checks what it reads of it.
"""

import contextlib
import errno
import glob
import json
import os
import shutil
import subprocess
import sys

ROOT = "/workspace/.packages"
TEMPORARY = ROOT + "/.tmp"
MOST = 200
NO_SPACE = (b"No space left on device", b"File too large", b"ENOSPC", b"EFBIG")
GIVEN = (
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT",
    "NODE_EXTRA_CA_CERTS", "PIP_INDEX_URL", "npm_config_registry", "npm_config_cafile",
    "PIP_EXTRA_INDEX_URL",
)  # fmt: skip


def main():
    tool, wanted = sys.argv[1], sys.argv[2:]
    os.makedirs(TEMPORARY, mode=0o700, exist_ok=True)
    os.chdir(ROOT)
    before = installed(tool)
    with contextlib.suppress(OSError):
        os.unlink(ROOT + "/.npmrc")  # npm reads it whatever it is told, and only a program has written it
    try:
        code, no_space = call(command(tool, wanted))
    finally:
        shutil.rmtree(TEMPORARY, ignore_errors=True)
    if code == 0:
        print(json.dumps({"installed": sorted(set(installed(tool)) - set(before))[:MOST]}))
    elif no_space:
        return errno.ENOSPC
    return 0 if code == 0 else 1


def call(argv):
    """Its exit code, and whether it complained of lack of space."""
    no_space = False
    with subprocess.Popen(
        argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        while line := process.stdout.readline(4096):
            no_space = no_space or any(word in line for word in NO_SPACE)
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
    return process.returncode, no_space


def environment():
    """The way out that the server gives, and no settings that a program has left in the workspace."""
    given = {name: os.environ[name] for name in GIVEN if name in os.environ}
    given.update({name: value for name, value in os.environ.items() if name.startswith("npm_config_@")})
    return {
        **given,
        **{name.lower(): value for name, value in given.items() if name.endswith("_PROXY")},
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": TEMPORARY,
        "TMPDIR": TEMPORARY,
        "PYTHONUSERBASE": ROOT,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }


def command(tool, wanted):
    if tool == "pip":
        return [
            sys.executable, "-P", "-m", "pip", "install", "--user", "--only-binary", ":all:", "--no-input",
            "--break-system-packages", "--no-cache-dir", "--no-compile", "--no-warn-script-location",
            "--disable-pip-version-check", "--progress-bar", "off", "--retries", "1",
            "--constraint", "/usr/share/sandbox/python-packages.txt", "--", *wanted,
        ]  # fmt: skip
    return [
        "npm", "install", "--prefix", ROOT, "--ignore-scripts", "--no-audit", "--no-fund",
        "--no-update-notifier", "--userconfig", TEMPORARY + "/user", "--globalconfig", TEMPORARY + "/global",
        "--logs-max=0", "--cache", TEMPORARY + "/npm", "--fetch-retries=1", "--loglevel=error", "--", *wanted,
    ]  # fmt: skip


def installed(tool):
    """What lies there, as (name, version)."""
    return _wheels() if tool == "pip" else _modules()


def _wheels():
    found = []
    for path in glob.glob(ROOT + "/lib/python3*/site-packages/*.dist-info"):
        name, _, version = os.path.basename(path).removesuffix(".dist-info").rpartition("-")
        found.append((name, version))
    return found


def _modules():
    try:
        with open(ROOT + "/node_modules/.package-lock.json", encoding="utf-8") as file:
            packages = json.load(file)["packages"]
    except (OSError, ValueError, KeyError):
        return []
    return [
        (path.rpartition("node_modules/")[2], str(facts.get("version", "")))
        for path, facts in packages.items()
        if "node_modules/" in path
    ]


sys.exit(main())

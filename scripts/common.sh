# Sourced by the scripts beside it: messages, root, apt, and asking an engine whether it answers.
# shellcheck shell=bash

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/.venv}"

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

can_be_root() { [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Quiet unless it fails; then everything that apt said.
quietly() {
    local log
    log="$(mktemp)"
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

APT_UPDATED=no

apt_install() {
    command -v apt-get >/dev/null || return 1
    can_be_root || return 1
    say "installing $* with apt"
    if [ "$APT_UPDATED" = no ]; then
        # A third-party source that is broken must not stop us: the install below says what is missing.
        quietly as_root apt-get -q -o DPkg::Lock::Timeout=180 update || say "apt-get update had errors (above); going on"
        APT_UPDATED=yes
    fi
    quietly as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qy -o DPkg::Lock::Timeout=180 install --no-install-recommends "$@"
}

# engine_answers [DOCKER_HOST]: asks with our own client, since a docker command need not be installed.
# Prints the reason if it does not.
engine_answers() {
    DOCKER_HOST="${1:-${DOCKER_HOST:-}}" "$VENV/bin/python" - <<'PYTHON'
import os, sys
if not os.environ.get("DOCKER_HOST"):
    os.environ.pop("DOCKER_HOST", None)
import docker
try:
    docker.from_env(timeout=10).ping()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
PYTHON
}

# has_client: whether there is anybody who could ask an engine. Without one, waiting for an answer is in vain.
has_client() {
    "$VENV/bin/python" -c 'import docker' 2>/dev/null
}

# wait_for_engine SECONDS [DOCKER_HOST]: says why it has given up
wait_for_engine() {
    local until=$((SECONDS + $1)) reason
    until reason="$(engine_answers "${2:-}" 2>&1)"; do
        [ "$SECONDS" -lt "$until" ] || { say "no answer in $1 s: $reason"; return 1; }
        sleep 0.5
    done
}

# runs NAME PIDFILE: whether the process that the file names is that daemon. By its program, not by its number:
# after a crash that may be somebody else's, or a zombie's, which has a name but no program any more.
runs() {
    local pid
    pid="$(as_root cat "$2" 2>/dev/null)" || return 1
    [ "$(basename "$(as_root readlink "/proc/$pid/exe" 2>/dev/null)")" = "$1" ]
}

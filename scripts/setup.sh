#!/usr/bin/env bash
# Everything that make demo, test, bench and check need on a fresh machine; quick when it is all there.
#   scripts/setup.sh           .venv and an engine that answers
#   scripts/setup.sh venv      .venv only (enough for make check)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

LOCK="$ROOT/requirements/dev.txt"

# -- .venv ---------------------------------------------------------------------------------------

stamp() { cat "$LOCK" "$ROOT/pyproject.toml" | sha256sum | cut -d' ' -f1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.14 python; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    if ! python="$(find_python)"; then
        apt_install python3 python3-venv || true
        python="$(find_python)" || die "no Python 3.11 to 3.14 found" \
            "install python3 and python3-venv, or say which with PYTHON=/path/to/python3"
    fi
    say "making .venv with $("$python" --version)"
    rm -rf "$VENV"
    if command -v uv >/dev/null && with_uv "$python"; then return; fi
    with_pip "$python"
}

with_uv() {
    rm -rf "$VENV"
    if quietly uv venv --quiet --no-config --python "$1" "$VENV"; then
        quietly uv pip install --quiet --python "$VENV/bin/python" --require-hashes -r "$LOCK" && return
    fi
    say "uv could not do it (above); trying pip"
    return 1
}

with_pip() {
    rm -rf "$VENV"
    if ! "$1" -c 'import ensurepip' 2>/dev/null; then
        # Debian keeps ensurepip in a package of its own, named after the version.
        apt_install "$(basename "$(readlink -f "$1")")-venv" || die "$1 can make no virtual environment" \
            "as root: apt-get install python3-venv"
    fi
    quietly "$1" -m venv "$VENV" || die "$1 -m venv failed (above)" "on Debian: apt-get install python3-venv"
    quietly "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
        --require-hashes -r "$LOCK" ||
        die "pip could not install requirements/dev.txt (above)" \
            "does \`pip download anyio\` work here? behind a TLS-inspecting proxy set PIP_CERT to its CA"
}

set_up_venv() {
    local wanted
    wanted="$(stamp)"
    [ "$(cat "$VENV/.stamp" 2>/dev/null)" = "$wanted" ] && return
    make_venv
    # The project itself, editable: hatchling is in the lock, so no index is asked.
    quietly "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --no-build-isolation --editable "$ROOT" || die "installing the project into .venv failed (above)"
    # hatchling copies images/ and policies/ even into an editable install, where they would only grow old.
    rm -rf "$VENV"/lib/python3*/site-packages/sandbox_server
    printf '%s\n' "$wanted" >"$VENV/.stamp"
}

# -- engine --------------------------------------------------------------------------------------

set_up_engine() {
    local reason
    reason="$(engine_answers 2>&1)" && return
    [ -z "${DOCKER_HOST:-}" ] || die "no engine answers at DOCKER_HOST=$DOCKER_HOST" "$reason" \
        "start it, or unset DOCKER_HOST to use the local one"
    case "$reason" in
        *PermissionError* | *"Permission denied"*)
            die "this user may not talk to the Docker Engine" \
                "as root: usermod -aG docker $(id -un), then log in again (the group is as good as root)" ;;
    esac
    can_be_root || die "no Docker Engine answers, and without root or sudo none can be installed" \
        "as root: apt-get install docker.io, then start dockerd and add this user to the group docker"
    if ! command -v dockerd >/dev/null; then
        apt_install docker.io iptables || die "docker.io could not be installed (above)" \
            "install Docker Engine 20.10 or newer and start it, then run this again"
        wait_for_engine 5 && return
    fi
    start_engine
}

# Never with a configuration of ours: an engine belongs to the machine, not to this project.
start_engine() {
    local log=/var/log/dockerd-sandbox-server.log
    say "starting dockerd"
    if [ -d /run/systemd/system ]; then
        as_root systemctl start docker >/dev/null 2>&1 && wait_for_engine 60 && return
    elif [ -x /etc/init.d/docker ]; then
        as_root service docker start >/dev/null 2>&1 && wait_for_engine 30 && return
    fi
    start_by_hand "$log" && return
    # Hosts without netfilter: sandboxes have no network and builds use the host's, so no bridge is needed.
    start_by_hand "$log" --bridge=none --iptables=false && return
    as_root tail -n 25 "$log" >&2 || true
    die "dockerd does not start (the end of $log is above)" "start a Docker Engine and run this again"
}

# A dockerd that was killed leaves its pid behind, and the next one may believe that it runs already.
forget_the_dead() {
    runs "$1" "$2" || as_root rm -f "$2"
}

start_by_hand() {
    local log="$1" pid
    shift
    forget_the_dead dockerd /var/run/docker.pid
    forget_the_dead containerd /var/run/docker/containerd/containerd.pid
    # Root's shell, because the log is root's.
    # shellcheck disable=SC2016  # expanded by that shell
    pid="$(as_root sh -c 'log="$1"; shift; setsid nohup dockerd "$@" </dev/null >>"$log" 2>&1 & echo $!' sh "$log" "$@")"
    local until=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$until" ]; do
        engine_answers 2>/dev/null && return
        as_root kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.5
    done
    as_root kill "$pid" 2>/dev/null || true
    return 1
}

# Only where no registry gives the base image is debootstrap needed; asking costs nothing, installing little.
set_up_bootstrap() {
    command -v debootstrap >/dev/null && return
    apt_install debootstrap debian-archive-keyring ||
        say "debootstrap is not installed: the base image must come from a registry"
}

case "${1:-all}" in
    venv) set_up_venv ;;
    all)
        set_up_venv
        set_up_engine
        set_up_bootstrap
        ;;
    *) die "usage: scripts/setup.sh [venv]" ;;
esac

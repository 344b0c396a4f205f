#!/usr/bin/env bash
# The test suite, with an engine that has gVisor beside the machine's own. Arguments go to pytest.
# Tests find that engine in SANDBOX_TEST_GVISOR_HOST.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

# The official conformance suite and the Inspector come from npm.
command -v npm >/dev/null || apt_install npm || die "npm could not be installed (above)" "install Node.js with npm"

# The tests start database servers of their own. Debian's packages would start one, too, when installed, on the
# machine's ports: the policy forbids it for the time of the installation, unless the machine has its own.
install_databases() {
    local policy=/usr/sbin/policy-rc.d ours=no status=0
    if ! [ -e "$policy" ]; then
        ours=yes
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    apt_install postgresql mariadb-server || status=1
    [ "$ours" = no ] || as_root rm -f "$policy"
    return "$status"
}

databases_are_there() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && PATH="$PATH:/usr/sbin" command -v mariadbd >/dev/null
}

databases_are_there || install_databases || die "PostgreSQL and MariaDB could not be installed (above)" \
    "install the packages postgresql and mariadb-server"

DIR=/var/lib/sandbox-gvisor
LOCK="${TMPDIR:-/tmp}/sandbox-gvisor-$(id -u).lock"
RESULTS="$(mktemp)"

engine_has_runsc() {
    "$VENV/bin/python" -c 'import docker, sys; sys.exit("runsc" not in docker.from_env().info()["Runtimes"])'
}

# Whoever finishes last stops the private engine: everybody holds LOCK shared, and only alone can one
# hold it exclusively. The daemons must not inherit it (9>&-), or they would hold it for ever.
finish() {
    rm -f "$RESULTS"
    if flock -n -x 9; then scripts/gvisor-engine.sh stop "$DIR" 9>&-; fi
}

if engine_has_runsc; then
    export SANDBOX_TEST_GVISOR_HOST="${DOCKER_HOST:-unix:///var/run/docker.sock}"
else
    exec 9>>"$LOCK"
    flock -s 9
    trap finish EXIT
    mapfile -t images < <("$VENV/bin/python" -c \
        'from sandbox_server.images.recipes import DEFAULT, tag_of; print(*map(tag_of, DEFAULT), sep="\n")')
    SANDBOX_TEST_GVISOR_HOST="$(flock -o "$LOCK.start" scripts/gvisor-engine.sh start "$DIR" "${images[@]}" 9>&-)"
    export SANDBOX_TEST_GVISOR_HOST
fi

status=0
"$VENV/bin/python" -m pytest --junit-xml="$RESULTS" "$@" || status=$?
[ "$status" -eq 0 ] || exit "$status"
# pytest calls a run in which everything was skipped a success.
"$VENV/bin/python" - "$RESULTS" <<'PYTHON'
import sys
from xml.etree import ElementTree

suites = ElementTree.parse(sys.argv[1]).iter("testsuite")
ran = sum(int(suite.get("tests", 0)) - int(suite.get("skipped", 0)) for suite in suites)
sys.exit(0 if ran else "error: no test ran")
PYTHON

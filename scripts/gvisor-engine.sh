#!/usr/bin/env bash
# A second, private Docker Engine that has gVisor (runsc) as a runtime, for the tests. The machine's own
# engine is never configured or restarted.
#   scripts/gvisor-engine.sh start DIR [IMAGE...]   prints its DOCKER_HOST; copies IMAGEs from the own engine
#   scripts/gvisor-engine.sh stop DIR
# DIR keeps everything of it and must be short (it holds sockets). A second start is quick.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# -ge 2 ] || die "usage: scripts/gvisor-engine.sh start|stop DIR [IMAGE...]"
ACTION="$1" DIR="$2"
shift 2
[ "${#DIR}" -le 60 ] || die "$DIR is too long for a socket's path"
HOST="unix://$DIR/docker.sock"

alive() { runs "$1" "$DIR/$1.pid"; }

# spawn NAME COMMAND...: in a session of its own, its pid in NAME.pid and its output in NAME.log
spawn() {
    local name="$1"
    shift
    # shellcheck disable=SC2016  # expanded by root's shell, which writes the files
    as_root sh -c 'dir="$1"; name="$2"; shift 2; setsid nohup "$@" </dev/null >>"$dir/$name.log" 2>&1 & echo $! >"$dir/$name.pid"' \
        sh "$DIR" "$name" "$@"
}

install_runtime() {
    local missing=()
    command -v runsc >/dev/null || missing+=(runsc)
    command -v dockerd >/dev/null || missing+=(docker.io)
    command -v containerd >/dev/null || missing+=(containerd)
    [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}" || die "${missing[*]} could not be installed (above)"
}

configure() {
    # dockerd 20.10 takes a runtime's arguments from a configuration file only. The kvm platform hangs on
    # some virtual machines; ptrace works everywhere.
    as_root tee "$DIR/daemon.json" >/dev/null <<JSON
{"runtimes": {"runsc": {"path": "$(command -v runsc)", "runtimeArgs": ["--platform=ptrace", "--network=none"]}}}
JSON
    # Its own containerd: beside a running one dockerd would share it, and both keep the namespace "moby".
    as_root tee "$DIR/containerd.toml" >/dev/null <<TOML
version = 2
root = "$DIR/containerd-root"
state = "$DIR/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$DIR/containerd.sock"
[debug]
  address = ""
TOML
}

wait_for_socket() {
    local until=$((SECONDS + 30))
    until as_root test -S "$1"; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.2
    done
}

start() {
    can_be_root || die "gVisor needs an engine of its own, and that needs root or sudo"
    has_client || die "$VENV/bin/python can't ask an engine: make the environment first (make setup), or name one in VENV"
    install_runtime
    as_root mkdir -p "$DIR"
    if ! { alive dockerd && engine_answers "$HOST" 2>/dev/null; }; then
        stop
        configure
        spawn containerd containerd --config "$DIR/containerd.toml"
        wait_for_socket "$DIR/containerd.sock" || fail containerd
        # In a network namespace of its own: a dockerd without a bridge deletes any docker0 that it sees, and
        # that one is the machine's own engine's. Sandboxes have no network anyway.
        spawn dockerd unshare --net dockerd --config-file "$DIR/daemon.json" --host "$HOST" --group "$(id -gn)" \
            --data-root "$DIR/data" --exec-root "$DIR/exec" --pidfile "$DIR/docker.pid" \
            --containerd "$DIR/containerd.sock" --bridge=none --iptables=false
        wait_for_engine 60 "$HOST" || fail dockerd
    fi
    copy_images "$@"
    printf '%s\n' "$HOST"
}

fail() {
    as_root tail -n 25 "$DIR/$1.log" >&2 || true
    stop
    die "the private $1 does not start (the end of its log is above)"
}

# With our own client, in one pass: layers that images share travel once.
copy_images() {
    [ $# -gt 0 ] || return 0
    TO="$HOST" "$VENV/bin/python" - "$@" <<'PYTHON'
import os, sys
import docker
from docker.errors import ImageNotFound

source, target = docker.from_env(timeout=600).api, docker.DockerClient(os.environ["TO"], timeout=600).api
def present(name):
    try:
        return target.inspect_image(name)["Id"] == source.inspect_image(name)["Id"]
    except ImageNotFound:
        return False
missing = [name for name in sys.argv[1:] if not present(name)]
if missing:
    print(f"==> copying {', '.join(missing)} to the gVisor engine", file=sys.stderr)
    # docker-py's get_image takes one name; the engine takes many and shares their layers.
    stream = source._get(source._url("/images/get"), params={"names": missing}, stream=True)
    source._raise_for_status(stream)
    for answer in target.load_image(stream.iter_content(1 << 20)):
        if "error" in answer:
            sys.exit(answer["error"])
PYTHON
}

stop() {
    local name
    for name in dockerd containerd; do
        if alive "$name"; then end "$name"; fi
        as_root rm -f "$DIR/$name.pid"
    done
}

# An ordered stop first: it ends the containers too.
end() {
    local pid until=$((SECONDS + 20))
    pid="$(cat "$DIR/$1.pid")"
    as_root kill "$pid" 2>/dev/null || true
    while as_root kill -0 "$pid" 2>/dev/null; do
        [ "$SECONDS" -lt "$until" ] || { as_root kill -9 "$pid" 2>/dev/null || true; return; }
        sleep 0.2
    done
}

case "$ACTION" in
    start) start "$@" ;;
    stop) stop ;;
    *) die "usage: scripts/gvisor-engine.sh start|stop DIR [IMAGE...]" ;;
esac

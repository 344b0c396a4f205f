#!/usr/bin/env bash
# Write the locks anew: exact versions with hashes, and no address of any index.
# Indexes, proxies and CAs are the host's business (uv's and pip's own configuration).
#   scripts/lock.sh [--upgrade]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$ROOT"

command -v uv >/dev/null || die "uv is needed to write locks" "pip install uv"

lock() {
    uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
        --no-header "$@"
}

# One lock for Python 3.11 to 3.14: markers say which line is for which.
lock "$@" --universal --python-version 3.11 pyproject.toml --output-file requirements/runtime.txt
lock "$@" --universal --python-version 3.11 pyproject.toml --group dev --group build \
    --constraint requirements/runtime.txt --output-file requirements/dev.txt
# What runs in the sandboxes. Only wheels: nothing is compiled, and no package's code runs, in a build.
for image in python node; do
    lock "$@" --python-version 3.13 --python-platform linux --only-binary :all: \
        "images/$image/requirements.in" --output-file "images/$image/requirements.lock"
done

if grep -n '://' requirements/*.txt images/*/requirements.lock; then
    die "a lock names an address (above)"
fi

#!/usr/bin/env bash
# Write build/lock.txt and build/lock-test.txt from the *.in files; versions already locked stay unless --upgrade.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "llorch: build/lock.sh needs uv on PATH" >&2; exit 1; }
lock() {
    uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url \
        --no-annotate "${@:3}" "$1" -o "$2"
}
lock build/build.in build/lock.txt "$@"
lock build/test.in build/lock-test.txt --constraint build/lock.txt "$@"

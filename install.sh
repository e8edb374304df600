#!/usr/bin/env bash
# Set up, build, try and test llorch. The only thing a newcomer runs; every step is skipped when it is done already.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VENV=$ROOT/.venv
STAMPS=$VENV/llorch-stamps
PROGRAM=$ROOT/build/out/llorch
TORCH_VERSION=2.13.0+cpu
TORCH_INDEX=https://download.pytorch.org/whl/cpu
EFFORT=()

usage() {
    cat <<END
usage: ./install.sh [--release] [--torch-index URL]      build build/out/llorch and install it for this user
       ./install.sh demo                                 the same if needed, then show the whole system at work
       ./install.sh test [PYTEST ARGUMENTS]              style, types and tests
       ./install.sh bench [NAME [ARGUMENTS]]             run a benchmark; without a name, list them
       ./install.sh dev                                  only the virtual environment in .venv

  --release          compress as well as possible: minutes longer, a quarter smaller
  --torch-index URL  where to get torch $TORCH_VERSION if pip as configured does not find it
                     (default: $TORCH_INDEX)

Links go to \${LLORCH_BIN_DIR:-~/.local/bin}.
END
}

say() { printf '==> %s\n' "$*"; }
fail() {
    printf 'llorch: %s\n' "$*" >&2
    exit 1
}

# --- what the machine must have ---------------------------------------------------------------------------------------

PYTHON=
PYTHON_LACKS=

# Sets PYTHON to the first Python 3.11 with venv and a shared libpython, else PYTHON_LACKS to what the best one lacks.
find_python() {
    local candidate facts
    for candidate in ${PYTHON311:+"$PYTHON311"} python3.11 python3 python /usr/bin/python3.11 /usr/local/bin/python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        facts=$("$candidate" - 2>/dev/null <<'END'
import importlib.util, os, sys, sysconfig
if sys.version_info[:2] != (3, 11):
    sys.exit(1)
get = sysconfig.get_config_var
folders = [get("LIBDIR") or "", f"/usr/lib/{get('MULTIARCH')}", f"{sys.base_prefix}/lib", "/usr/lib", "/usr/lib64"]
shared = any(os.path.exists(os.path.join(d, name)) for d in folders for name in ("libpython3.11.so.1.0", "libpython3.11.dylib"))
lacks = []
if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
    lacks.append("python3.11-venv")
if not shared:
    lacks.append("libpython3.11")
print(sys.executable, *lacks)
END
        ) || continue
        if [[ $facts != *" "* ]]; then
            PYTHON=$facts
            return
        fi
        PYTHON_LACKS=${PYTHON_LACKS:-${facts#* }}
    done
    PYTHON_LACKS=${PYTHON_LACKS:-python3.11 python3.11-venv libpython3.11}
}

check_machine() {
    local packages=()
    find_python
    # shellcheck disable=SC2206  # package names, meant to be split
    [[ -n $PYTHON ]] || packages+=($PYTHON_LACKS)
    command -v "${CXX:-g++}" >/dev/null || packages+=(g++)
    { command -v objcopy && command -v strip; } >/dev/null || packages+=(binutils)
    [[ ${#packages[@]} -eq 0 ]] || fail "missing: ${packages[*]}; on Debian and Ubuntu: sudo apt-get install -y ${packages[*]}"
}

# --- steps, each done once --------------------------------------------------------------------------------------------

# once NAME HASH COMMAND...: run COMMAND unless step NAME was completed for HASH.
once() {
    local stamp=$STAMPS/$1 hash=$2
    if [[ -f $stamp && $(<"$stamp") == "$hash" ]]; then return; fi
    "${@:3}"
    mkdir -p "$STAMPS"
    printf '%s' "$hash" >"$stamp.part"
    mv "$stamp.part" "$stamp"
}

hash_of() { cat "$@" | cksum | tr ' ' '-'; }

pip() { "$VENV/bin/python" -m pip "$@" --quiet --disable-pip-version-check --no-input --progress-bar off; }

make_venv() {
    say "virtual environment in .venv ($PYTHON)"
    "$PYTHON" -m venv --clear "$VENV" || fail "could not make the virtual environment in $VENV"
}

install_locked() {
    say "packages of build/${1##*/}"
    pip install --require-hashes -r "$1" || fail "could not install the packages of $1 (see pip's message above)"
}

install_torch() {
    local wanted=("torch==$TORCH_VERSION") messages
    [[ $(uname -sm) != "Linux x86_64" ]] || wanted=(--require-hashes -r "$ROOT/build/torch.txt")
    say "torch $TORCH_VERSION"
    # Its dependencies are in the lock file; asked for here, they could drag in CUDA packages.
    messages=$(pip install --no-deps "${wanted[@]}" 2>&1) && return
    [[ $messages == *"No matching distribution"* || $messages == *"Could not find a version"* ]] || fail "torch: ${messages##*$'\n'}"
    say "pip as configured has no torch $TORCH_VERSION: using $TORCH_INDEX"
    pip install --no-deps --extra-index-url "$TORCH_INDEX" "${wanted[@]}" ||
        fail "torch $TORCH_VERSION is neither where pip is configured to look nor at $TORCH_INDEX; name another with --torch-index URL"
}

link_sources() {
    local site
    site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$ROOT" >"$site/llorch-sources.pth"
}

ensure_venv() {
    check_machine
    # One at a time, but never wait without a word.
    if command -v flock >/dev/null; then
        mkdir -p "$ROOT/build/work"
        exec 9>"$ROOT/build/work/install.lock"
        flock -n 9 || { say "another install.sh is at work here; waiting" && flock 9; }
    fi
    if ! "$VENV/bin/python" -c '' 2>/dev/null; then rm -rf "$STAMPS"; fi
    once venv "$PYTHON $ROOT" make_venv
    once lock "$(hash_of "$ROOT/build/lock.txt")" install_locked "$ROOT/build/lock.txt"
    once torch "$TORCH_VERSION" install_torch
    once sources "$ROOT" link_sources
}

ensure_test_venv() {
    ensure_venv
    once lock-test "$(hash_of "$ROOT/build/lock-test.txt")" install_locked "$ROOT/build/lock-test.txt"
}

freeze() {
    say "frozen file"
    "$VENV/bin/python" "$ROOT/build/freeze.py" "${EFFORT[@]}" || fail "the frozen file could not be built (see above)"
}

build() {
    ensure_venv
    freeze
}

# --- commands ---------------------------------------------------------------------------------------------------------

install_program() {
    build
    "$PROGRAM" self install
}

run_demo() {
    install_program
    exec 9>&-
    exec "$PROGRAM" demo "$@"
}

run_tests() {
    ensure_test_venv
    freeze
    exec 9>&-
    cd "$ROOT"
    if [[ $# -gt 0 ]]; then exec "$VENV/bin/python" -m pytest "$@"; fi
    say "style"
    "$VENV/bin/ruff" check --config build/ruff.toml .
    "$VENV/bin/ruff" format --check --config build/ruff.toml .
    say "types"
    "$VENV/bin/mypy"
    say "tests"
    "$VENV/bin/python" -m pytest
}

run_bench() {
    local name=${1:-}
    if [[ -z $name ]]; then
        find "$ROOT/tests/bench" -maxdepth 1 -name '[a-z]*.py' ! -name conftest.py -exec basename {} .py \; 2>/dev/null | sort
        return
    fi
    [[ -f $ROOT/tests/bench/$name.py ]] || fail "no benchmark '$name'; ./install.sh bench lists them"
    ensure_test_venv
    freeze
    exec 9>&-
    cd "$ROOT"
    exec "$VENV/bin/python" "tests/bench/$name.py" "${@:2}"
}

main() {
    local command=install
    trap 'printf "\nllorch: interrupted; run the same command again to go on\n" >&2; exit 130' INT TERM
    while [[ $# -gt 0 ]]; do
        case $1 in
            --release) EFFORT=(--release) ;;
            --torch-index) [[ $# -gt 1 ]] || fail "--torch-index needs a URL"; TORCH_INDEX=$2; shift ;;
            --torch-index=*) TORCH_INDEX=${1#*=} ;;
            -h | --help) usage; return ;;
            demo | test | bench | dev) command=$1; shift; break ;;
            *) usage >&2; exit 2 ;;
        esac
        shift
    done
    case $command in
        install) install_program ;;
        demo) run_demo "$@" ;;
        test) run_tests "$@" ;;
        bench) run_bench "$@" ;;
        dev) ensure_test_venv; say "ready: source $VENV/bin/activate" ;;
    esac
}

main "$@"

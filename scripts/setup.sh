#!/bin/sh
# Installs the pinned packages into .venv: setup.sh runtime|dev. The Makefile calls it after a change of the pins or of the
# interpreter. The development packages include those of the runtime.
#
# `.venv/.complete` exists only while the installation is complete, so an interrupted one (Ctrl-C, power) is repeated.
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
LOG=$VENV/install.log
COMPLETE=$VENV/.complete
OLDEST=3.11

main() {
    case "${1:-}" in
        runtime) requirements=requirements.txt ;;
        dev) requirements=requirements-dev.txt ;;
        *) fail "usage: setup.sh runtime|dev" ;;
    esac
    if ! is_usable; then
        create_venv
    fi
    install "$requirements"
    : >"$VENV/.runtime"
    if [ "$1" = dev ]; then
        : >"$VENV/.dev"
    fi
}

fail() {
    echo "setup: $1" >&2
    exit 1
}

is_usable() {
    [ -e "$COMPLETE" ] && is_recent "$VENV/bin/python" && "$VENV/bin/python" -c 'import pip' 2>/dev/null
}

# True for a Python that is new enough and runs; a version manager's shim may exist without running.
is_recent() {
    "$1" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$OLDEST'.split('.'))))" 2>/dev/null
}

version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

# Prints the Python to use: $PYTHON if it is set, else the newest one that is new enough.
find_python() {
    asked=${PYTHON:-python3}
    if is_recent "$asked"; then
        echo "$asked"
        return
    fi
    if [ "$asked" = python3 ]; then
        for candidate in python3.14 python3.13 python3.12 python3.11; do
            if is_recent "$candidate"; then
                echo "$candidate"
                return
            fi
        done
    fi
    found=$(version_of "$asked") && found="this is $found" || found="'$asked' does not run"
    fail "Python $OLDEST or newer is needed, $found: apt-get install python3.11 python3.11-venv (macOS: brew install python), then make PYTHON=python3.11 run"
}

create_venv() {
    python=$(find_python)
    version=$(version_of "$python")
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "Python $version has no venv module: apt-get install python${version%.*}-venv, then run make again"
    require_writable
    echo "Creating $VENV with Python $version"
    output=$("$python" -m venv --clear "$VENV" 2>&1) || fail "'$python -m venv $VENV' failed: $(last_line "$output")"
}

require_writable() {
    { mkdir -p "$VENV" && touch "$VENV/.writable" && rm "$VENV/.writable"; } 2>/dev/null ||
        fail "cannot write to $VENV in this folder: make it yours (sudo chown -R \"\$USER\" .), or clone into a folder that is"
}

last_line() {
    printf '%s\n' "$1" | tail -n 1
}

install() {
    require_writable
    echo "Installing $1 into $VENV (log: $LOG)"
    rm -f "$COMPLETE"
    if pip_install "$1" >"$LOG" 2>&1; then
        : >"$COMPLETE"
        return
    fi
    if ! grep -q '^Installing collected packages' "$LOG"; then
        : >"$COMPLETE" # it failed before it changed anything
    fi
    explain
}

# Wheels only: the installation executes no code from a package index.
pip_install() {
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off --retries 2 \
        --only-binary :all: --require-hashes -r "$1"
}

explain() {
    if grep -q 'No space left on device' "$LOG"; then
        fail "the disk is full: about 500 MB are needed, then run make again"
    elif grep -q 'connection broken by\|Failed to establish a new connection\|ProxyError' "$LOG"; then
        fail "pip cannot reach the package index: check the network, or set HTTPS_PROXY or PIP_INDEX_URL, then run make again"
    fi
    fail "pip failed (all of it in $LOG): $(last_line "$(grep '^ERROR' "$LOG" || cat "$LOG")")"
}

main "$@"

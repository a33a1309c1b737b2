#!/bin/sh
# Make .venv and install headrace with everything its tests need. Run by the Makefile; needs no root and no GPU.
#
#   PYTHON=/path/to/python scripts/setup.sh    use this interpreter (3.11 or newer)
#
# torch, in this order: one the interpreter already has; where an NVIDIA GPU answers, the default wheel; else the
# CPU build. An interrupted run leaves .venv/.building behind, and the next one starts over; after an error the next
# one goes on where it stopped.
set -u
cd "$(dirname "$0")/.." || exit 1

VENV=.venv
LOG=$VENV/setup.log
TORCH=2.13.0
CPU_INDEX=https://download.pytorch.org/whl/cpu
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
unset PYTHONHOME PYTHONPATH

say() { printf 'set-up: %s\n' "$*"; }

fail() {
    why=$(grep -E '^(ERROR|error|OSError|[A-Za-z]*Error)' "$LOG" 2>/dev/null | tail -n 1 | cut -c 1-200)
    rm -f "$VENV/.building" # pip ended by itself: what is installed is whole
    printf 'set-up failed: %s%s (all output: %s)\n' "$1" "${why:+: $why}" "$LOG" >&2
    exit 1
}

stop() {
    printf '\nset-up interrupted; the next make starts it over\n' >&2
    exit 130
}
trap stop INT TERM

good_python() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

has_torch() {
    "$1" -c 'import sys, torch
sys.exit(tuple(int(x) for x in torch.__version__.split("+")[0].split(".")[:2]) < (2, 8))' >/dev/null 2>&1
}

# Print the interpreter to use: the first that already has torch, else the first that is new enough.
find_python() {
    first=
    for name in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        good_python "$name" || continue
        if has_torch "$name"; then
            echo "$name"
            return
        fi
        first=${first:-$name}
    done
    echo "$first"
}

# The mark carries the number of the process that set it.
running() {
    other=$(cat "$VENV/.building" 2>/dev/null) && [ -n "$other" ] && [ "$other" != $$ ] &&
        ps -p "$other" -o args= 2>/dev/null | grep -q setup.sh
}

wait_for_another() {
    running || return
    say "another one is at work here; waiting for it"
    while running; do sleep 1; done
    [ ! -e "$VENV/.ready" ] || exit 0
}

# Ask for the CPU index once and briefly, so that a closed network costs seconds, not pip's retries.
cpu_index_answers() {
    "$VENV/bin/python" -c 'import sys, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=6).close()' "$CPU_INDEX/torch/" >/dev/null 2>&1
}

pip() { "$VENV/bin/python" -m pip -q "$@" </dev/null >>"$LOG" 2>&1; }

make_venv() {
    if [ -x "$VENV/bin/python" ] && [ ! -e "$VENV/.building" ] && good_python "$VENV/bin/python" &&
        "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        say "1/4 updating the environment in $VENV"
        return
    fi
    [ ! -e "$VENV/.building" ] || say "the last one was interrupted; starting over"
    base=$(find_python)
    if [ -z "$base" ]; then
        echo "set-up failed: no Python 3.11 or newer with venv and ensurepip found;" \
            "install one, or name it: make PYTHON=/path/to/python" >&2
        exit 1
    fi
    site=
    if has_torch "$base"; then site=--system-site-packages; fi
    say "1/4 $("$base" --version 2>&1) ($base) makes the environment $VENV, a few seconds"
    mkdir -p "$VENV" && echo $$ >"$VENV/.building" || fail "cannot write $VENV"
    # --clear would take the mark away first; it must outlive every interruption.
    find "$VENV" -mindepth 1 -maxdepth 1 ! -name .building -exec rm -rf {} + || fail "cannot clear $VENV"
    "$base" -m venv $site "$VENV" >>"$LOG" 2>&1 || fail "cannot make $VENV with $base"
}

install_torch() {
    if has_torch "$VENV/bin/python"; then
        say "2/4 torch is there already"
    elif nvidia-smi >/dev/null 2>&1; then
        say "2/4 torch with CUDA, for the NVIDIA GPU found here: 3 GB, several minutes"
        pip install "torch>=2.8" || fail "cannot install torch"
    else
        say "2/4 torch $TORCH, CPU build: 200 MB, a minute or two"
        # Only Linux needs the CPU index; the default wheels of other systems bring no CUDA. Dependencies come in 3/4.
        if [ "$(uname -s)" = Linux ] && cpu_index_answers &&
            pip install --no-deps --index-url "$CPU_INDEX" "torch==$TORCH"; then
            return
        fi
        [ "$(uname -s)" != Linux ] ||
            say "    $CPU_INDEX gives none; taking what pip finds, which may be the build with CUDA: 3 GB"
        pip install "torch==$TORCH" || fail "cannot install torch $TORCH"
    fi
}

install_rest() {
    say "3/4 $(grep -c == requirements-dev.lock) packages at their locked versions: 150 MB, about a minute"
    if ! pip install --only-binary :all: -r requirements-dev.lock; then
        say "    the locked versions do not install here; taking the newest that pyproject.toml allows"
        pip install "setuptools>=77" -e ".[dev,bench,train]" || fail "cannot install the dependencies"
    fi
    say "4/4 headrace itself, a few seconds"
    pip install --no-deps --no-build-isolation -e . || fail "cannot install headrace"
}

wait_for_another
make_venv
rm -f "$VENV/.ready"
echo $$ >"$VENV/.building"
: >"$LOG"
install_torch
install_rest
"$VENV/bin/python" -c 'import av, headrace, torch, transformers' >>"$LOG" 2>&1 || fail "the installed packages do not import"
rm -f "$VENV/.building"
touch "$VENV/.ready"
say "done: $("$VENV/bin/python" -c 'import platform, torch
print("Python", platform.python_version() + ", torch", torch.__version__)')"

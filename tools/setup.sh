#!/bin/sh
# Brings .venv to what requirements.lock says. `make` calls it before everything; a second call only looks.
#
# PYTHON names the interpreter to build on (default: the first Python >= 3.11 on the PATH). With
# NO_INSTALL set, that interpreter is used as it is; WHEELS names a folder of wheels to lay before it.
set -eu

fail() {
    echo "set-up: $1" >&2
    exit 1
}

unpack_wheels() {
    set -- "$WHEELS"/*.whl
    [ -e "$1" ] || fail "WHEELS=$WHEELS holds no *.whl file."
    wanted=$(cksum "$@")
    [ "$wanted" = "$(cat build/wheels/.from 2>/dev/null)" ] && return
    rm -rf build/wheels
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --target build/wheels "$@" || fail "cannot unpack the wheels of $WHEELS."
    echo "$wanted" >build/wheels/.from
}

find_python() {
    for name in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is no Python of version 3.11 or newer."
    done
    fail "there is no Python of version 3.11 or newer on the PATH: install one, or name it with PYTHON=..."
}

# Prints what .venv must have been made from to be up to date.
describe() {
    cat requirements.lock pyproject.toml | cksum
}

# True for a finished .venv that runs, made in this folder (its scripts hold the path), on the
# interpreter that PYTHON asks for.
is_whole() {
    base='import sys; print(sys.base_prefix, sys.version)'
    [ -e .venv/.installed ] && grep -qFx "$PWD" .venv/.folder &&
        ours=$(.venv/bin/python -c "$base" 2>/dev/null) &&
        { [ -z "$python" ] || [ "$ours" = "$("$python" -c "$base")" ]; }
}

create_venv() {
    python=${python:-$(find_python)}
    rm -rf .venv
    if uv --version >/dev/null 2>&1; then
        uv venv --quiet --python "$python" .venv
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: install its venv module (Debian: python3-venv)."
    "$python" -m venv .venv
    awk '/^[^ #]/ { keep = /^uv==/ } keep' requirements.lock >.venv/uv.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
}

# Makes uv trust what the machine trusts, as pip does: behind a company's proxy it would trust too little.
use_system_certificates() {
    for store in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        if [ -s "$store" ]; then
            export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS-1}" UV_NATIVE_TLS="${UV_NATIVE_TLS-1}"
        fi
    done
}

# Compiles all modules once: where Python may not keep what it compiles (PYTHONDONTWRITEBYTECODE), every
# process would spend seconds on it again.
install() {
    PATH="$PWD/.venv/bin:$PATH"
    use_system_certificates
    quiet=--quiet
    [ -t 2 ] && quiet=
    uv pip sync $quiet --python .venv/bin/python --compile-bytecode --require-hashes requirements.lock &&
        uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
}

cd "$(dirname "$0")/.."
mkdir -p build
if [ -n "${NO_INSTALL:-}" ]; then
    [ -z "${WHEELS:-}" ] || unpack_wheels
    exit
fi

# Held by every child as well: where a set-up was killed, this waits until its last installer has ended.
if command -v flock >/dev/null; then
    exec 9>build/.setup.lock
    flock -n 9 || { echo "Waiting for another set-up to end..." && flock 9; }
fi

python=
[ -z "${PYTHON:-}" ] || python=$(find_python)
if is_whole; then
    [ "$(describe)" = "$(cat .venv/.installed)" ] && exit
    echo "Bringing .venv up to date..."
    rm .venv/.installed
else
    echo "Setting up .venv (once; some minutes, about 6 GB)..."
    create_venv
fi
install || fail "failed, see above. The next call of make begins anew."
pwd >.venv/.folder
describe >.venv/.installed

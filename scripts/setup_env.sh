# shellcheck shell=bash
# The virtual environment of the other scripts, which source this file and call `set_up_environment [EXTRA ...]`.
#
# Afterwards $VENV/bin holds python, mtl and the rest. An environment that is already there is used again, and nothing
# is installed while pyproject.toml and constraints.txt are those that it was made from.
#
#   MTL_VENV  where the environment lies or shall lie (default: .venv in the project)
#   PYTHON    the interpreter that makes it (default: the first of python3.11, 3.12, ..., python3 that is new enough)

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${MTL_VENV:-$ROOT/.venv}"

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3.14 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        if [[ -n "${PYTHON:-}" ]]; then
            echo "PYTHON=$PYTHON is no Python of version 3.11 or newer. Unset it or name another one." >&2
            return 1
        fi
    done
    echo "Found no Python of version 3.11 or newer. Install one, or name it: PYTHON=/path/to/python3.11 $0" >&2
    return 1
}

fingerprint() {
    "$VENV/bin/python" - "$ROOT/pyproject.toml" "$ROOT/constraints.txt" <<'PYTHON_END'
import hashlib, pathlib, sys
print(hashlib.sha256(b"".join(pathlib.Path(name).read_bytes() for name in sys.argv[1:])).hexdigest(), sys.version.split()[0])
PYTHON_END
}

set_up_environment() {
    local python stamp wanted found="" extra extras="" missing=0

    if [[ ! -e "$VENV" ]]; then
        python="$(find_python)"
        echo "Creating $VENV with $("$python" --version)" >&2
        "$python" -m venv "$VENV"
    elif ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "$VENV is there but holds no working Python with pip. Remove it, or name another folder: MTL_VENV=..." >&2
        return 1
    fi

    # The stamp: what the environment was made from, then the extras installed so far.
    stamp="$VENV/.mtl-installed"
    wanted="$(fingerprint) $ROOT"
    if [[ -f "$stamp" ]]; then
        { read -r found && read -r extras; } <"$stamp" || true
    fi
    [[ "$found" == "$wanted" ]] || missing=1
    for extra in "$@"; do
        if [[ ",$extras," != *",$extra,"* ]]; then
            extras="${extras:+$extras,}$extra"
            missing=1
        fi
    done
    if ((missing)); then
        echo "Installing the project into $VENV (a few minutes the first time)" >&2
        rm -f "$stamp"
        "$VENV/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
            --constraint "$ROOT/constraints.txt" --editable "$ROOT${extras:+[$extras]}"
        printf '%s\n%s\n' "$wanted" "$extras" >"$stamp"
    fi
}

#!/usr/bin/env bash
# Every check of the project: set-up, linter, formatter, type checker, test suite. Arguments go on to pytest:
#
#   scripts/test.sh
#   scripts/test.sh tests/tasks -k tagging -n 0
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
set_up_environment dev bundled
cd "$ROOT"

"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
"$VENV/bin/mypy"
# One thread a process: the threads of two test processes would wait for each other on two cores.
OMP_NUM_THREADS=1 "$VENV/bin/python" -m pytest -n 2 "$@"

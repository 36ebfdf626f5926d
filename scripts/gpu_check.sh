#!/usr/bin/env bash
# On a machine with a GPU, in one call of under ten minutes: is what we compute there right, and how fast is it.
# Writes one JSON; the last line says how it went. Needs no network where Python has the packages already.
#
#   scripts/gpu_check.sh [FILE.json]          # refuses without a GPU
#   scripts/gpu_check.sh --cpu [FILE.json]    # rehearsal: the same, tiny, on the CPU
#
# PYTHON=... chooses the Python; without it that of .venv, or python3 where it has torch and transformers.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
has_packages() { "$1" -c 'import torch, transformers, datasets, hydra, torch.cuda' >/dev/null 2>&1; }

for python in "${PYTHON:-}" "$ROOT/.venv/bin/python" python3; do
    if [[ -n "$python" ]] && has_packages "$python"; then
        found="$python"
        break
    fi
done
if [[ -z "${found:-}" ]]; then
    # shellcheck source-path=SCRIPTDIR source=setup_env.sh
    source "$ROOT/scripts/setup_env.sh"
    set_up_environment bundled
    found="$VENV/bin/python"
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1
exec "$found" "$ROOT/scripts/gpu_check.py" "$@"

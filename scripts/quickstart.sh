#!/usr/bin/env bash
# From a fresh clone to a trained model: sets up .venv where it is missing, then trains three small tasks on the embedded
# corpus (no network, no account). Arguments go on to `mtl train`:
#
#   scripts/quickstart.sh
#   scripts/quickstart.sh seed=2 encoder.num_layers=2
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
# shellcheck disable=SC2119  # no extras
set_up_environment

exec "$VENV/bin/mtl" train "$@"

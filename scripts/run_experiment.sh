#!/usr/bin/env bash
# Run a designed experiment of the study: tune the learning rates, train with new seeds, and answer contrasts
# that were written down before.
#
#   bash scripts/run_experiment.sh partitions --data_dir data --jobs 2
#
# All experiments and flags: bash scripts/run_experiment.sh --help
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

run_python_driver scripts.experiment "$@"

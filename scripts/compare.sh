#!/usr/bin/env bash
# Compare anything in one command: train every combination of the given values, tabulate, and report.
#
#   bash scripts/compare.sh --modes sync async --workers 5 --partitions split_labels --slow_worker_1
#
# All flags: bash scripts/compare.sh --help
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

run_python_driver scripts.compare "$@"

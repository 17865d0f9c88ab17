#!/usr/bin/env bash
# Compare anything in one command: train every combination of the given values, tabulate, and report.
#
#   bash scripts/compare.sh --modes sync async --workers 5 --partitions split_labels --slow_worker_1
#
# All flags: bash scripts/compare.sh --help
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT  # set by torchrun and in some containers: the runs are local
case " $* " in
  *" --dry_run "* | *" --help "* | *" -h "*) ;;  # needs no torch, so it installs nothing
  *) find_python ;;
esac
module scripts.compare "$@"

#!/usr/bin/env bash
# Report all runs in some folders: one HTML page that works without a network, and figures for a paper.
#
#   bash scripts/report.sh FOLDER [FOLDER ...] [--output FILE] [--data_dir DIR]
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

find_python
module analysis.report "$@"

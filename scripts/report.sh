#!/usr/bin/env bash
# Report all runs in some folders: one HTML page that works without a network, and figures for a paper.
#
#   bash scripts/report.sh FOLDER [FOLDER ...] [--output FILE] [--summary_dir DIR] [--data_dir DIR]
#
# --output: the page (default report.html in the first folder); --summary_dir: where trials.jsonl is (default: FOLDER);
# --data_dir: the data sets, to test the models of runs that no sweep has measured (default data).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

case " $* " in
  *" --help "* | *" -h "*) print_header && exit ;;
esac
find_python
module analysis.report "$@"

#!/usr/bin/env bash
# Test every complete run in a folder: reports, training plots, and a summary of all runs.
#
#   bash scripts/test_model.sh FOLDER --jobs 2
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

read_folder -- "$@"

while read -r base; do
  test_run "$base"
done < <(runs_in "$folder")

run_planned
finish summarise "$folder"

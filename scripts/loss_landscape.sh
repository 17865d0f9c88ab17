#!/usr/bin/env bash
# Draw the loss landscape of every complete run in a folder that saved its weights (--saves_per_epoch).
#
#   bash scripts/loss_landscape.sh FOLDER --grid_size 50
#
# The pages share one copy of plotly.js in their folder.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

grid_size=25                 # grid points per side
test_samples=                # number of test images (default: all)

read_folder grid_size test_samples -- "$@"

while read -r base; do
  [[ -f ${base}_weights.npy ]] || continue
  plan "$results/${base##*/}_loss_landscape_contour.html" \
    loss_landscape.py "${base}_model.pt" "${base}_weights.npy" --shared_plotly --grid_size "$grid_size" \
    ${test_samples:+--test_samples "$test_samples"} --data_dir "$data_dir" --subfolder "$results"
done < <(runs_in "$folder")

run_planned
finish summarise "$folder"

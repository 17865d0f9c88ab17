#!/usr/bin/env bash
# How does momentum affect asynchronous SGD?
#
#   bash scripts/run_async_momentums.sh --clock virtual
#
# Trains once per momentum value, with validation, tests each model, and draws one loss landscape with the trajectories
# of all runs: 5 runs and a landscape.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

momentums=(0.99 0.95 0.9 0.5 0.0)  # momentum values
world_sizes=(4)              # processes: workers + 1
grid_size=50                 # grid points per side of the landscape
landscape_name=async_momentums  # prefix of the landscape's files
results=results/async_momentums

read_settings "${training_settings[@]}" plot_dir momentums world_sizes grid_size landscape_name -- "$@"

done_when=files  # the landscape needs the saved weights

for world_size in "${world_sizes[@]}"; do
  for momentum in "${momentums[@]}"; do
    train dist_async.py --world_size "$world_size" --momentum "$momentum" --val --saves_per_epoch 3
  done
done
names=$(sweep --names)
landscape=$plot_dir/${landscape_name}_loss_landscape_multi_contour.html
drawn=("$landscape")
for name in $names; do
  drawn+=("$(report_of "$name")")
done
run_planned

weights=()
for name in $names; do
  test_run "$results/$name"
  weights+=("$results/${name}_weights.npy")
done
run_planned

plan "$landscape" \
  loss_landscape_multi.py "${weights[0]/%_weights.npy/_model.pt}" "${weights[@]}" --name "$landscape_name" \
  --grid_size "$grid_size" --shared_plotly --data_dir "$data_dir" --subfolder "$plot_dir"
run_planned
finish summarise

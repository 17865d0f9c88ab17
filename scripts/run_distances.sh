#!/usr/bin/env bash
# How far does the model move while a gradient is computed? With momentum, and with more workers?
#
#   bash scripts/run_distances.sh --clock virtual
#
# Trains an epoch for each number of workers and momentum m, with the learning rate lr · (1 − m), so that all of them
# step equally far in the long run; saves the weights after nearly every update (450 MB per run of LeNet5), and draws
# staleness and ‖w − w fetched‖ against the updates: 9 runs and a figure.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

world_sizes=(3 6 11)         # processes: workers + 1
momentums=(0 0.5 0.9)        # momentum values
lr=0.02                      # learning rate without momentum
epochs=1
saves_per_epoch=1875         # weights are saved this often
results=results/distances

read_settings "${training_settings[@]}" plot_dir world_sizes momentums saves_per_epoch -- "$@"

done_when=files  # the saved weights are measured
drawn=("$plot_dir/distances.png")

unscaled=$lr
for world_size in "${world_sizes[@]}"; do
  split split_dataset "$world_size"
  for momentum in "${momentums[@]}"; do
    lr=$(matched_rate "$unscaled" "$momentum")
    train dist_async.py "${split[@]}" --momentum "$momentum" --saves_per_epoch "$saves_per_epoch"
  done
done
run_and_measure analysis.reports.distance_plots

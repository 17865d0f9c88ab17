#!/usr/bin/env bash
# Which labels are forgotten when a slow worker trains alone at the end?
#
#   bash scripts/run_recall.sh --clock virtual
#
# Workers own labels, all are delayed, and worker 1 sleeps twice as long: with --stop epochs it trains alone after the
# others have finished. Saves the weights during training (300 MB per run of LeNet5), and draws the recall of each label
# around the moment at which the first worker finishes: 3 runs and a figure.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

world_sizes=(3 6 11)         # processes: workers + 1
delay=30                     # milliseconds, or small, medium, long
lr=0.05
momentum=0
saves_per_epoch=200          # weights are saved this often
results=results/recall

read_settings "${training_settings[@]}" plot_dir momentum world_sizes delay saves_per_epoch -- "$@"

done_when=files  # the saved weights are tested
drawn=("$plot_dir/recall.png")

delay_of "$delay"
for world_size in "${world_sizes[@]}"; do
  split split_labels "$world_size"
  train dist_async.py "${split[@]}" --momentum "$momentum" --saves_per_epoch "$saves_per_epoch" \
    --delay --slow_worker_1 "${delay_of[@]}" --delay_type constant
done
run_and_measure analysis.reports.class_recall --data_dir "$data_dir"

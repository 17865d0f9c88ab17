#!/usr/bin/env bash
# What happens in the last updates of an asynchronous run if every worker owns different labels?
#
#   bash scripts/run_last_updates.sh --clock virtual --jobs 2
#
# Workers that are equally fast on average, but not at every mini-batch, do not finish at the same time. Trains with
# gaussian delays and labels split, saves the weights during training (300 MB per run of LeNet5), and tests those of the
# last updates, without and with momentum, for each world size: 18 runs and a figure.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

delay=30                     # milliseconds, or small, medium, long
world_sizes=(3 6 11)         # processes: workers + 1
momentums=(0 0.9)            # momentum values
seeds=(1 2 3)
saves_per_epoch=200          # weights are saved this often
last=300                     # number of last updates to test
results=results/last_updates

read_settings "${training_settings[@]}" plot_dir delay world_sizes momentums saves_per_epoch last -- "$@"

done_when=files  # the saved weights are tested
drawn=("$plot_dir/last_updates.png")

delay_of "$delay"
for world_size in "${world_sizes[@]}"; do
  split split_labels "$world_size"
  for any_momentum in "${momentums[@]}"; do
    train dist_async.py "${split[@]}" --momentum "$any_momentum" \
      --delay "${delay_of[@]}" --delay_type gaussian --saves_per_epoch "$saves_per_epoch"
  done
done
run_and_measure analysis.reports.last_updates --last "$last" --data_dir "$data_dir"

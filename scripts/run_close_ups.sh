#!/usr/bin/env bash
# What does training with delayed workers look like in detail?
#
#   bash scripts/run_close_ups.sh --clock virtual
#
# Part a of the delay experiments for one delay, with validation: samples or labels split, with and without a slow
# worker 1, for each world size. Tests and plots every run, and compares the staleness distributions of the runs that
# split the samples: 12 runs and a figure.
# shellcheck disable=SC2329  # called by `finish`
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

delays=(30)                  # milliseconds, or small, medium, long
world_sizes=(3 6 11)         # processes: workers + 1
results=results/close_ups

read_settings "${training_settings[@]}" plot_dir momentum delays world_sizes -- "$@"

done_when=files  # the figures need them

# plan_runs PARTITION: plan the training runs with this partition.
plan_runs() {
  local delay world_size slow
  for delay in "${delays[@]}"; do
    delay_of "$delay"
    for slow in "" --slow_worker_1; do
      for world_size in "${world_sizes[@]}"; do
        split "$1" "$world_size"
        train dist_async.py "${split[@]}" --momentum "$momentum" --val \
          --delay "${delay_of[@]}" --delay_type constant ${slow:+"$slow"}
      done
    done
  done
}

plan_runs split_dataset
samples_split=$(sweep --names)
plan_runs split_labels
names=$(sweep --names)
drawn=("$plot_dir/staleness_distributions.png")
for name in $names; do
  drawn+=("$(report_of "$name")")
done
run_planned

for name in $names; do
  test_run "$results/$name"
done
run_planned

# conclude: create the summary, and the figure of the runs that split the samples.
conclude() {
  # shellcheck disable=SC2086  # one word per run
  logs_of $samples_split
  summarise && draw module analysis.reports.staleness_plots "${logs[@]}" --output "${drawn[0]}"
}
finish conclude

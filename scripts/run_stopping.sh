#!/usr/bin/env bash
# What does the stopping rule do, when one of the workers that own labels is slow?
#
#   bash scripts/run_stopping.sh --jobs 2
#
# Workers own labels, all are delayed, and worker 1 sleeps twice as long. With --stop epochs it trains alone at the end
# and the model forgets the labels of the others; the other rules end with the first worker, or let all work to the end.
# Each rule for each number of workers, with test accuracy over virtual time: 90 runs and a figure.
# shellcheck disable=SC2329  # `finish` calls what it is given
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

rules=(epochs first total)   # values of --stop
world_sizes=(3 6 11)         # processes: workers + 1
delay=30                     # milliseconds, or small, medium, long
clock=virtual
compute_ms=                  # time per gradient on the virtual clock, ms (default 15)
evals_per_epoch=4
seeds=(1 2 3 4 5 6 7 8 9 10)
results=results/stopping

without_settings stop  # the rules are
read_settings "${training_settings[@]}" plot_dir momentum rules world_sizes delay -- "$@"
[[ $clock == wall ]] || compute_ms=${compute_ms:-15}

delay_of "$delay"
all_seeds=("${seeds[@]}")
for seed in "${all_seeds[@]}"; do  # whole seeds one after the other: an interrupted study is balanced
  seeds=("$seed")
  for world_size in "${world_sizes[@]}"; do
    split split_labels "$world_size"
    for stop in "${rules[@]}"; do
      train dist_async.py "${split[@]}" --momentum "$momentum" \
        --delay --slow_worker_1 "${delay_of[@]}" --delay_type constant
    done
  done
done
names=$(sweep --names)
run_planned

# conclude: the summary, and accuracy over time under each rule.
# shellcheck disable=SC2086  # one word per run
conclude() {
  summarise && module analysis.reports.stopping_plots "$summary_dir" $names --plot_dir "$plot_dir"
}
finish conclude

#!/usr/bin/env bash
# Which algorithm copes with a slow worker that owns labels?
#
#   bash scripts/run_algorithms.sh --jobs 2
#
# Ten workers own a label each, and worker 1 has a quarter of the others' speed. All of them work to the end. Each
# algorithm first gets its learning rate, the one with the highest validation accuracy, then trains with new seeds.
# shellcheck disable=SC2329  # `finish` calls what it is given
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

algorithms=(  # with their flags; DANA is a rule for momentum, all others train without
  average backup malenia asgd asgd+compensation staleness_aware delay_adaptive ringmaster rennala fedbuff ssp dude
  ringleader rescaled dana+momentum=0.9)
rates=(0.003 0.01 0.03 0.1 0.3)  # learning rates to tune over; a tenth for DANA: momentum 0.9 counts tenfold
tuning_seeds=(1)                 # of the runs that choose the rates
seeds=(2 3 4 5 6)                # of the runs that are compared
world_size=11                    # processes: workers + 1
worker_speeds=(0.25 1 1 1 1 1 1 1 1 1)
epochs=3
stop=total
clock=virtual
evals_per_epoch=6
results=results/algorithms

without_settings lr  # it is tuned
read_settings "${training_settings[@]}" plot_dir algorithms rates tuning_seeds world_size -- "$@"
modes=$(dry_module scripts.modes)  # one line per algorithm: its name and its mode
new_results=$results new_summary_dir=$summary_dir new_seeds=("${seeds[@]}")

split split_labels "$world_size"

# train_algorithm ALGORITHM FLAGS...: plan its runs; asgd+compensation is --algorithm asgd --compensation.
train_algorithm() {
  local algorithm=$1 mode
  mode=$(awk -v name="${algorithm%%+*}" '$1 == name { print $2 }' <<<"$modes")
  [[ -n $mode ]] ||
    refuse "--algorithms $algorithm is not valid: give some of $(awk '{ print $1 }' <<<"$modes" | paste -sd " ")"
  # shellcheck disable=SC2086  # several words
  train "dist_$mode.py" "${split[@]}" --algorithm ${algorithm//+/ --} "${@:2}"
}

say "Learning rates"
results+=/tuning summary_dir+=/tuning seeds=("${tuning_seeds[@]}")
for rate in "${rates[@]}"; do
  for algorithm in "${algorithms[@]}"; do
    lr=$rate
    [[ $algorithm != dana* ]] || lr=$(product "$rate" 0.1)
    train_algorithm "$algorithm" --val
  done
done
tuning=$(sweep --names)
run_planned

say "New seeds"
# shellcheck disable=SC2086  # one word per run
if [[ $dry_run == no ]]; then
  best=$(module analysis.reports.tuning "$summary_dir" $tuning)
else
  best=$(dry_module analysis.reports.tuning "$summary_dir" $tuning --dry_run)
fi
results=$new_results summary_dir=$new_summary_dir
for seed in "${new_seeds[@]}"; do  # whole seeds one after the other: an interrupted study is balanced
  seeds=("$seed")
  while read -r algorithm lr; do
    train_algorithm "$algorithm"
  done <<<"$best"
done
run_planned

# conclude: the summary, a table with what theory predicts, and accuracy over time of each algorithm.
conclude() {
  summarise && module analysis.reports.algorithm_plots "$summary_dir" --plot_dir "$plot_dir" --data_dir "$data_dir"
}
finish conclude

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
rates=(0.003 0.01 0.03 0.1 0.3)  # learning rates to tune over, times 1 - momentum
tuning_seeds=(1)                 # of the runs that choose the rates
seeds=(2 3 4 5 6)                # of the runs that are compared
world_size=11                    # processes: workers + 1
worker_speeds=()                 # speed of each worker (default: 0.25 for worker 1, 1 for the others)
epochs=3
stop=total
clock=virtual
evals_per_epoch=6
results=results/algorithms

without_settings lr  # it is tuned
read_settings "${training_settings[@]}" plot_dir algorithms rates tuning_seeds world_size -- "$@"
[[ $clock == virtual ]] || refuse "--clock $clock is not valid: a worker has a speed on the virtual clock only"
((${#worker_speeds[@]})) || for ((worker = 1; worker < world_size; worker++)); do
  worker_speeds+=("$( ((worker == 1)) && echo 0.25 || echo 1)")
done
known=$(dry_module scripts.modes)  # one line per algorithm: its name, its mode and its flags
new_results=$results new_summary_dir=$summary_dir new_seeds=("${seeds[@]}")

split split_labels "$world_size"

# train_algorithm ALGORITHM FLAGS...: plan its runs; asgd+compensation is --algorithm asgd --compensation.
train_algorithm() {
  local algorithm=$1 mode flags flag
  read -r mode flags < <(awk -v name="${algorithm%%+*}" '$1 == name { $1 = ""; print }' <<<"$known") ||
    refuse "--algorithms $algorithm is not valid: give some of $(awk '{ print $1 }' <<<"$known" | paste -sd " ")"
  for flag in $(tr + '\n' <<<"$algorithm" | sed '1d; s/=.*//'); do
    [[ " momentum $flags " == *" $flag "* ]] ||
      refuse "--algorithms $algorithm is not valid: + goes before momentum${flags:+ ${flags// / }} of ${algorithm%%+*}"
  done
  # shellcheck disable=SC2086  # several words
  train "dist_$mode.py" "${split[@]}" --algorithm ${algorithm//+/ --} "${@:2}"
}

say "Learning rates"
results+=/tuning summary_dir+=/tuning seeds=("${tuning_seeds[@]}")
for rate in "${rates[@]}"; do
  for algorithm in "${algorithms[@]}"; do
    lr=$(matched_rate "$rate" "$(sed -n 's/.*+momentum=\([^+]*\).*/\1/p' <<<"$algorithm")")
    train_algorithm "$algorithm" --val
  done
done
tuning=$(sweep --names)
run_planned

# shellcheck disable=SC2086  # one word per run
if [[ $dry_run == no ]]; then
  best=$(module analysis.reports.tuning "$summary_dir" $tuning)
else
  best=$(dry_module analysis.reports.tuning "$summary_dir" $tuning --dry_run)
fi
say "New seeds$([[ $best != *untried* ]] || echo ", with rates that stand in for those to be chosen")"
results=$new_results summary_dir=$new_summary_dir
for seed in "${new_seeds[@]}"; do  # whole seeds one after the other: an interrupted study is balanced
  seeds=("$seed")
  while read -r algorithm lr untried; do
    [[ -z $untried || $names_only == no ]] || continue  # a name contains the rate
    train_algorithm "$algorithm"
  done <<<"$best"
done
names=$(sweep --names)
run_planned

# conclude: the summary, a table with what theory predicts, and accuracy over time of each algorithm.
# shellcheck disable=SC2086  # one word per run
conclude() {
  summarise &&
    module analysis.reports.algorithm_plots "$summary_dir" $names --plot_dir "$plot_dir" --data_dir "$data_dir"
}
finish conclude

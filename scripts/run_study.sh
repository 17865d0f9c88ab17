#!/usr/bin/env bash
# Run the whole study: tables go to summaries/, figures to plots/.
#
#   bash scripts/run_study.sh --data_dir data --jobs 2
#   bash scripts/run_study.sh --experiments delays_published figures
#
# It can be interrupted and resumed at any time: runs that are already in a trials.jsonl in summaries/ are skipped.
# Logs, models and weights go to results/.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

all_experiments=(undelayed_published delays_published gaussian_published undelayed_wall delays speed_virtual speed_wall
  momentums close_ups last_updates stopping distances recall algorithms kfold partitions
  momentum regulariser remedies speeds partitions_elsewhere momentum_elsewhere
  remedies_elsewhere figures)
experiments=("${all_experiments[@]}")  # which of them to run
checkout=$ROOT/  # the study belongs there, wherever it is started
[[ $PWD != "$ROOT" ]] || checkout=
data_dir=${checkout}data
results=${checkout}results
summary_dir=${checkout}summaries
plot_dir=${checkout}plots

read_settings plot_dir experiments -- "$@"

for name in "${experiments[@]}"; do
  [[ " ${all_experiments[*]} " == *" $name "* ]] ||
    refuse "--experiments $name is not valid: give some of ${all_experiments[*]}"
done

# wanted NAME: whether this experiment is selected.
wanted() {
  [[ " ${experiments[*]} " == *" $1 "* ]]
}

# attempt NAME COMMAND...: if a command fails, the study continues, unless it was interrupted.
attempt() {
  local code=0
  "${@:2}" || code=$?
  ! interrupted "$code" || exit "$code"
  ((code == 0)) || failed+=("$1")
}

# driver NAME ARGUMENTS...: run a driver, which ends when the study is killed.
bound=()
! setpriv --pdeathsig TERM true 2>/dev/null || bound=(setpriv --pdeathsig TERM)
driver() {
  ${bound[@]+"${bound[@]}"} bash "$ROOT/scripts/$1.sh" "${@:2}"
}

# study NAME DRIVER ARGUMENTS...: run one experiment, with its own folder.
study() {
  local name=$1 driver=$2 flags=(--data_dir "$data_dir" --results "$results/$1")
  [[ $driver == run_kfold* ]] || flags+=(--summary_dir "$summary_dir/$1")
  flags+=(${jobs:+--jobs "$jobs"} ${scheduler:+--scheduler "$scheduler"} ${keep:+--keep "$keep"})
  shift 2
  wanted "$name" || return 0
  [[ $dry_run == no ]] || flags+=(--dry_run)
  [[ $verbose == no ]] || flags+=(--verbose)
  [[ $names_only == no ]] || flags+=(--names)
  say "$name"
  attempt "$name" driver "$driver" "${flags[@]}" "$@"
}
failed=()
[[ $dry_run == no ]] || answer_dry_runs

# As published: delays of 30, 60 and 90 ms, with about 15 ms per gradient. Three seeds for tables II to IV.
published=(--clock virtual --compute_ms 15 --world_sizes 3 6 11)
study undelayed_published run_speed_comp "${published[@]}" --networks LeNet5 --partitions split_dataset split_labels \
  --seeds 1 2 3
study delays_published run_delay_exps "${published[@]}" --delays 30 60 90 --parts a b c --lambdas 2 5 --seeds 1 2 3
study gaussian_published run_delay_exps "${published[@]}" --delays 30 60 90 --parts d --seeds 1

# On the wall clock, where workers compete for cores and do not finish at the same time.
wall=(--clock wall)
[[ -n $scheduler ]] || wall+=(--jobs 1)  # parallel runs would slow each other down
study undelayed_wall run_speed_comp "${wall[@]}" --world_sizes 3 6 11 --networks LeNet5 --modes async \
  --partitions split_dataset split_labels --seeds 1 2 3

# With the suite's own delay intensities.
study delays run_delay_exps --clock virtual

# speed NAME CLOCK...: run the speed comparison. CNN1 without a split is slow, so it uses a fifth of the training set.
speed() {
  study "$1" run_speed_comp "${@:2}" --networks LeNet5
  study "$1" run_speed_comp "${@:2}" --networks CNN1 --modes sync async --partitions split_dataset split_labels
  study "$1" run_speed_comp "${@:2}" --networks CNN1 --modes sync async --partitions none --train_split 0.2
}
speed speed_virtual --clock virtual
speed speed_wall "${wall[@]}"

# Runs to inspect in detail: training plots, staleness, a landscape.
# In the landscape of all momentum values, the diverging run dominates the scale: a second landscape leaves it out.
momentum_study=(momentums run_async_momentums --clock virtual --plot_dir "$plot_dir/momentums")
study "${momentum_study[@]}"
study "${momentum_study[@]}" --momentums 0.9 0.5 0.0 --landscape_name momentums_up_to_09
study close_ups run_close_ups --clock virtual --compute_ms 15 --plot_dir "$plot_dir/close_ups"
study last_updates run_last_updates --clock virtual --compute_ms 15 --plot_dir "$plot_dir"
study stopping run_stopping --plot_dir "$plot_dir"
study distances run_distances --clock virtual --plot_dir "$plot_dir"
study recall run_recall --clock virtual --plot_dir "$plot_dir"
study algorithms run_algorithms --plot_dir "$plot_dir"

# Tuned learning rates, five to ten seeds, contrasts that were written down before the runs.
for name in partitions momentum regulariser remedies speeds partitions_elsewhere momentum_elsewhere \
  remedies_elsewhere; do
  study "$name" run_experiment "$name" --plot_dir "$plot_dir"
done

# A grid search writes its rows, tables and figures to a single folder.
study kfold run_kfold_full --dataset mnist fashion_mnist --networks default --max_samples 6000 --k_splits 5 \
  --results "$summary_dir/kfold" --jobs "${jobs:-1}"

if [[ $dry_run == no ]] && wanted figures; then
  say "Tables and figures"
  attempt partitioning.png \
    module analysis.reports.partition_plots --data_dir "$data_dir" --output "$plot_dir/partitioning.png"
  attempt figures module analysis.study "$summary_dir" --plot_dir "$plot_dir"
fi

if ((${#failed[@]})); then
  printf 'Not complete: %s\n' "${failed[*]}" >&2
  exit 1
fi

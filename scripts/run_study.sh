#!/usr/bin/env bash
# The study, run whole, and published: tables in summaries/, figures in plots/.
#
#   bash scripts/run_study.sh --data_dir data --jobs 2
#
# Every driver in turn, with the arguments that are given here. Days may lie between two sittings: a run whose row is in the
# trials.csv of its folder in summaries/ is not done again. Logs, models and weights go to results/.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

# study NAME DRIVER ARGUMENTS...: one experiment, into results/NAME and summaries/NAME; the next one comes even if it fails.
study() {
  local name=$1 driver=$2
  shift 2
  printf '\n==> %s\n' "$name"
  bash "scripts/$driver.sh" --results "results/$name" --summary_dir "summaries/$name" "$@" || failed+=("$name")
}
failed=()

# As published: delays of 30, 60 and 90 ms, when a gradient took about 15 ms. Three seeds for tables II to IV.
published=(--clock virtual --compute_ms 15 --world_sizes 3 6 11)
study delays_published run_delay_exps "${published[@]}" --delays 30 60 90 --parts a b c --lambdas 2 5 --seeds 1 2 3 "$@"
study undelayed_published run_speed_comp "${published[@]}" --networks LeNet5 --partitions split_dataset split_labels \
  --seeds 1 2 3 "$@"
study gaussian_published run_delay_exps "${published[@]}" --delays 30 60 90 --parts d --seeds 1 "$@"

# With the suite's own intensities.
study delays run_delay_exps --clock virtual "$@"

# Speed, on both clocks. CNN1 without a split is slow: it sees a fifth of the training set.
for clock in virtual wall; do
  flags=(--clock "$clock" "$@")
  [[ $clock == virtual ]] || flags+=(--jobs 1)  # runs beside one another would slow each other down
  study "speed_$clock" run_speed_comp --networks LeNet5 "${flags[@]}"
  study "speed_$clock" run_speed_comp --networks CNN1 --modes sync async --partitions split_dataset split_labels "${flags[@]}"
  study "speed_$clock" run_speed_comp --networks CNN1 --modes sync async --partitions none --train_split 0.2 "${flags[@]}"
done

study momentums run_async_momentums --clock virtual "$@"
study kfold run_kfold_full --dataset mnist fashion_mnist --networks default --max_samples 6000 --k_splits 5 "$@"

if ((${#failed[@]})); then
  printf 'Not complete: %s\n' "${failed[*]}" >&2
  exit 1
fi

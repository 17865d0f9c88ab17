#!/usr/bin/env bash
# How do delays affect the convergence of asynchronous SGD?
#
#   bash scripts/run_delay_exps.sh --clock virtual --jobs 2
#   bash scripts/run_delay_exps.sh --delays 30 60 90 --world_sizes 3 6 11 --seeds 1 2 3
#
# Four parts, for each delay and each world size (label splits use world size 3 instead of 2):
#   a  constant delays, samples or labels split, with and without a slow worker 1        36 runs
#   b  constant delays, labels split, slow worker 1, compensation                         9 runs
#   c  constant delays, labels split, slow worker 1, other momentum values               27 runs
#   d  gaussian delays, samples or labels split, all momentum values, with and without
#      compensation                                                                     144 runs
# shellcheck disable=SC2329  # the parts are called by name
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

delays=(small medium long)   # or milliseconds
world_sizes=(2 6 11)         # processes: workers + 1
lambdas=(2)                  # values of λ in part b
parts=(a b c d)              # see above
results=results/delay_exps

read_settings "${training_settings[@]}" momentum delays world_sizes lambdas parts -- "$@"

# delayed TYPE PARTITION DELAY WORLD_SIZE FLAGS...: plan an asynchronous run in which every worker is delayed.
delayed() {
  local type=$1 partition=$2 delay=$3 world_size=$4
  shift 4
  split "$partition" "$world_size"
  delay_of "$delay"
  train dist_async.py "${split[@]}" --delay "${delay_of[@]}" --delay_type "$type" "$@"
}

part_a() {
  for partition in split_dataset split_labels; do
    delayed constant "$partition" "$@" --momentum "$momentum"
    delayed constant "$partition" "$@" --momentum "$momentum" --slow_worker_1
  done
}

part_b() {
  for lambda in "${lambdas[@]}"; do
    delayed constant split_labels "$@" --momentum "$momentum" --slow_worker_1 --compensation --compensation_lambda "$lambda"
  done
}

part_c() {
  for other_momentum in 0 0.5 0.99; do
    delayed constant split_labels "$@" --momentum "$other_momentum" --slow_worker_1
  done
}

part_d() {
  for partition in split_dataset split_labels; do
    for any_momentum in 0 0.5 0.9 0.99; do
      delayed gaussian "$partition" "$@" --momentum "$any_momentum"
      delayed gaussian "$partition" "$@" --momentum "$any_momentum" --compensation
    done
  done
}

for part in "${parts[@]}"; do
  declare -F "part_$part" >/dev/null || refuse "--parts $part is not valid: give some of a b c d"
  for delay in "${delays[@]}"; do
    for world_size in "${world_sizes[@]}"; do
      "part_$part" "$delay" "$world_size"
    done
  done
done

run_planned
finish summarise

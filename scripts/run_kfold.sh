#!/usr/bin/env bash
# Which settings work best? Cross-validated grid search over data sets and networks, with SGD, or with Adam (--alr).
#
#   bash scripts/run_kfold.sh --dataset mnist fashion_mnist
#   bash scripts/run_kfold.sh --alr --max_samples 6000
#
# The searches run one after another, each with --jobs processes. An interrupted search resumes.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

dataset=(mnist fashion_mnist)  # one search per data set
networks=(default)           # default: LeNet5 / ResNet18; alt: CNN1 / CNN2
optimizers=(SGD)             # SGD, ADAM or both; --alr is --optimizers ADAM
k_splits=5                   # folds
epochs=(2 4 6)               # numbers of epochs to try
learning_rates=()            # learning rates to try (default: those of kfold.py for the optimiser)
batch_sizes=(32 64 128)      # samples per mini-batch to try
momentums=(0.9 0.95 0.99)    # momentum values to try, only with SGD
max_samples=                 # number of samples to search on (default: all)
seeds=(42)                   # one search per seed
jobs=$(nproc)                # processes of a search
results=results/kfold

driver_settings=(jobs scheduler keep data_dir results)  # a search has its tables in its results
arguments=()
for argument in "$@"; do
  [[ $argument == --alr ]] && arguments+=(--optimizers ADAM) || arguments+=("$argument")
done
read_settings dataset networks optimizers k_splits epochs learning_rates batch_sizes momentums max_samples seeds \
  -- "${arguments[@]}"
[[ " $* " != *" --momentums "* || " ${optimizers[*]} " == *" SGD "* ]] || refuse "--momentums has no effect with ADAM only"

for optimizer in "${optimizers[@]}"; do
  for name in "${dataset[@]}"; do
    for network in "${networks[@]}"; do
      for seed in "${seeds[@]}"; do
        flags=(--dataset "$name" --data_dir "$data_dir" --k_splits "$k_splits" --epochs "${epochs[@]}")
        flags+=(--batch_sizes "${batch_sizes[@]}" --seed "$seed" --jobs "$jobs" --subfolder "$results")
        flags+=(${learning_rates[@]+--learning_rates "${learning_rates[@]}"} ${max_samples:+--max_samples "$max_samples"})
        case $optimizer in
          SGD) flags+=(--momentums "${momentums[@]}") ;;
          ADAM) flags+=(--alr) ;;
          *) refuse "--optimizers $optimizer is not valid: give some of SGD ADAM" ;;
        esac
        case $network in
          default) ;;
          alt) flags+=(--alt_model) ;;
          *) refuse "--networks $network is not valid: give some of default alt" ;;
        esac
        plan - kfold.py "${flags[@]}"
      done
    done
  done
done

jobs=  # the searches run one after another
run_planned
finish module cross_validation.summary "$results"

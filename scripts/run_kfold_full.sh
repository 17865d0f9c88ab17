#!/usr/bin/env bash
# Which settings are best, for SGD and for Adam? All data sets and networks: days of work on two cores.
#
#   bash scripts/run_kfold_full.sh --max_samples 6000
#
# Takes the flags of run_kfold.sh.
set -euo pipefail

exec bash "$(dirname "${BASH_SOURCE[0]}")/run_kfold.sh" --optimizers SGD ADAM \
  --dataset mnist fashion_mnist cifar10 cifar100 --networks default alt --results results/kfold_full "$@"

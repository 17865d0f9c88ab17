#!/usr/bin/env bash
# Which settings work best for SGD and for Adam? Covers all data sets but digits, and all
# networks; takes days on two cores.
#
#   bash scripts/run_kfold_full.sh --max_samples 6000
#
# Takes the flags of run_kfold.sh.
set -euo pipefail

SUITE_DRIVER=$0 exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/run_kfold.sh" --optimizers SGD ADAM \
  --dataset mnist fashion_mnist cifar10 cifar100 --networks default alt --results results/kfold_full "$@"

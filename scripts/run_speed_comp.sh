#!/usr/bin/env bash
# How do synchronous and asynchronous training compare in speed and accuracy?
#
#   bash scripts/run_speed_comp.sh --train_split 0.2
#
# One non-distributed run, of the first network, then synchronous and asynchronous × world sizes × no split, samples
# split, labels split (which uses world size 3 instead of 2) × LeNet5, CNN1: 1 + 36 runs.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"

world_sizes=(2 6 11)         # processes: workers + 1
partitions=(none split_dataset split_labels)  # of the training set among workers
networks=(LeNet5 CNN1)       # LeNet5, CNN1 or both
modes=(classic sync async)   # not distributed, synchronous, asynchronous
results=results/speed_comp

read_settings "${training_settings[@]}" momentum world_sizes partitions networks modes -- "$@"

# train_network NETWORK SCRIPT FLAGS...: plan the training runs of one network.
train_network() {
  local network=$1 script=$2 flags
  case $network in
    LeNet5) flags=() ;;
    CNN1) flags=(--alt_model) ;;
    *) refuse "--networks $network is not valid: give some of LeNet5 CNN1" ;;
  esac
  train "$script" --momentum "$momentum" "${@:3}" "${flags[@]}"
}

# distributed SCRIPT: plan the training runs of one script.
distributed() {
  local script=$1 network world_size partition
  for network in "${networks[@]}"; do
    for world_size in "${world_sizes[@]}"; do
      for partition in "${partitions[@]}"; do
        split "$partition" "$world_size"
        train_network "$network" "$script" "${split[@]}"
      done
    done
  done
}

for mode in "${modes[@]}"; do
  case $mode in
    classic) train_network "${networks[0]}" nonDistributed.py ;;
    sync | async) distributed "dist_$mode.py" ;;
    *) refuse "--modes $mode is not valid: give some of classic sync async" ;;
  esac
done

run_planned
finish summarise

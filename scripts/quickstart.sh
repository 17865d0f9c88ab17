#!/usr/bin/env bash
# Install the requirements, train asynchronously on the bundled digits, test the model, and draw its plots and its
# loss landscape. All results go to quickstart/. Needs no network access after installation.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"
case " $* " in
  *" --help "* | *" -h "*) print_header && exit ;;
esac
cd "$ROOT"

prepare_environment requirements.txt

results=quickstart
run=digits_async_4_100_002_05_32_20_SGD_spe1_val_split_dataset

say "Training on the digits with three asynchronous workers"
python dist_async.py --dataset digits --world_size 4 --split_dataset --lr 0.02 --momentum 0.5 --epochs 20 \
  --seed --val --saves_per_epoch 1 --subfolder "$results"

say "Testing the model"
python test_model.py "$results/${run}_model.pt" "$results/${run}_log.log" \
  --classification_report --training_time --pics --subfolder "$results"

say "Drawing the loss landscape around the training trajectory"
python loss_landscape.py "$results/${run}_model.pt" "$results/${run}_weights.npy" --subfolder "$results"

say "Reporting"
python -m analysis.report "$results"

say "All results are in $ROOT/$results"
ls "$results"

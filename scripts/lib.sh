# shellcheck shell=bash
# shellcheck disable=SC2034  # the drivers use the variables that are set here
# Functions and settings shared by the scripts. Source it after `set -euo pipefail`.

ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

# say TEXT: announce the next step, unless only names are asked for.
say() {
  [[ ${names_only:-no} == yes ]] || printf '\n==> %s\n' "$*"
}

CPU_INDEX=https://download.pytorch.org/whl/cpu  # PyTorch's own, of builds without CUDA

# prepare_environment REQUIREMENTS: install a requirements file into the project's own virtual environment
# (.venv, or $VENV), unless these requirements are already installed there, and put it first on the PATH.
prepare_environment() {
  local requirements=$1 venv=${VENV:-$ROOT/.venv} wanted stamp index
  wanted=$(cat "$ROOT"/requirements*.txt "$ROOT/constraints.txt" | cksum)
  stamp=$venv/.installed-$requirements
  if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    say "Installing $requirements into $venv"
    make_environment "$venv"
    touch "$venv/.installing"
    index=$(torch_index)
    if [[ -n $index ]] && grep -q '^\(torch\|-r requirements.txt\)' "$ROOT/$requirements"; then
      install_torch "$venv" "$index"
    fi
    install_packages "$venv" --requirement "$ROOT/$requirements"
    printf '%s\n' "$wanted" >"$stamp"
    rm "$venv/.installing"
  fi
  export PATH="$venv/bin:$PATH"
}

# make_environment VENV: create a virtual environment. One that is broken, or whose installation was interrupted, is
# made anew: packages that were only partly unpacked look as if they were installed.
make_environment() {
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    { echo "$(python3 --version) is too old: install Python 3.10 or newer" >&2 && exit 1; }
  if [[ -e $1/.installing ]]; then
    echo "An earlier installation was interrupted: starting again"
    python3 -m venv --clear "$1"
  elif ! "$1/bin/python" -m pip --version &>/dev/null; then
    python3 -m venv --clear "$1"
  fi
}

# torch_index: print the index to take torch from: $TORCH_INDEX if it is set, nothing (pip's default) for a machine with
# an NVIDIA GPU, and otherwise the one of CPU builds.
torch_index() {
  if [[ -v TORCH_INDEX ]]; then
    echo "$TORCH_INDEX"
  elif ! nvidia-smi --list-gpus 2>/dev/null | grep -q .; then
    echo "$CPU_INDEX"
  fi
}

# install_torch VENV INDEX: install torch and torchvision from an index. If that fails, say what it costs.
install_torch() {
  local packages
  mapfile -t packages < <(grep '^torch' "$ROOT/requirements.txt")
  install_packages "$1" --no-deps --index-url "$2" "${packages[@]}" &>/dev/null || true
  "$1/bin/python" -c 'from importlib.metadata import requires
exit(any(need.startswith("nvidia") for need in requires("torch")))' &>/dev/null ||
    echo "No CPU builds of PyTorch at $2: taking the default ones, with 5 GB of CUDA (TORCH_INDEX=URL names another index)"
}

# install_packages VENV ARGUMENTS...: install packages in the tested versions, with uv if there is one, which is faster.
install_packages() {
  local venv=$1
  shift
  uv pip install --quiet --python "$venv/bin/python" --constraint "$ROOT/constraints.txt" "$@" 2>/dev/null ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$ROOT/constraints.txt" "$@"
}

# ----------------------------------------------------------------------------------------------------
# Drivers: a driver sets the variables of its experiment, reads its command line, then plans and executes runs.
# ----------------------------------------------------------------------------------------------------

# Settings of every driver; run_kfold.sh takes one out.
driver_settings=(jobs scheduler keep data_dir results summary_dir)
jobs=                    # runs in parallel on this machine (default 1)
scheduler=               # address of a Dask cluster that executes the runs; local: one of --jobs workers
keep=                    # what comes back from a cluster: rows, or files as well (default rows)
data_dir=data            # folder of the data sets, or to download to
results=                 # folder for all outputs
summary_dir=             # folder for trials.jsonl and the summary (default: the results)
plot_dir=                # in drivers that draw: folder for reports and figures (default: the results)
dry_run=no               # --dry_run: only report how many runs there are, and how long they take
verbose=no               # --verbose: with --dry_run, the commands as well
names_only=no            # --names: only print the names of the runs

# Settings of every driver that trains; the defaults are those of the published study.
training_settings=(dataset train_split lr batch_size epochs seeds clock compute_ms compute_time worker_speeds
  communication_ms stop max_seconds local_steps evals_per_epoch)
dataset=fashion_mnist    # mnist, fashion_mnist, cifar10, cifar100 or digits
train_split=1            # fraction of the training set
lr=0.005                 # learning rate
batch_size=32            # samples per mini-batch
epochs=6                 # epochs per run
momentum=0.9             # momentum of SGD
seeds=(42)               # one run per seed
clock=wall               # wall: real processes; virtual: a simulated schedule
compute_ms=              # time per gradient on the virtual clock, ms
compute_time=            # distribution of the time per gradient, such as lognormal:0.5
worker_speeds=()         # speed of each worker on the virtual clock, or spread:CV
communication_ms=        # time per message on the virtual clock, ms
stop=epochs              # when a distributed run ends: epochs, first or total
max_seconds=             # time limit of a run, s (default: none)
local_steps=             # local steps of a worker before it pushes (default 1)
evals_per_epoch=         # evaluations on the test set per epoch (default: none)

# without_settings NAME...: the driver has values of its own for these settings of training.
without_settings() {
  local name kept=()
  for name in "${training_settings[@]}"; do
    [[ " $* " == *" $name "* ]] || kept+=("$name")
  done
  training_settings=("${kept[@]}")
}

done_when=row            # what shows that a training run is done: see scripts/sweep.py
drawn=()                 # all that is drawn from the files of runs: while it is there, they may be gone
planned=()               # one line per run, in the format of scripts/sweep.py
RUNS_FAILED=3            # exit code of scripts/sweep.py if some runs failed, and the others are done
FILES_GONE=4             # the same if all are done, and all is drawn, but files of runs are gone
run_files=here           # or gone: then nothing is drawn
status=0                 # exit status of the driver: 1 if any run failed

# read_settings NAME... -- ARGUMENTS: set these variables, and those of every driver, from the command line.
# `--epochs 2` sets epochs; array variables take several values.
read_settings() {
  local settings=("${driver_settings[@]}") name
  while [[ $1 != -- ]]; do
    settings+=("$1")
    shift
  done
  shift
  while (($#)); do
    name=${1#--}
    case $1 in
      -h | --help) describe "${settings[@]}" ;;
      --dry_run) dry_run=yes && shift && continue ;;
      --verbose) verbose=yes && shift && continue ;;
      --names) dry_run=yes names_only=yes && shift && continue ;;
    esac
    [[ $1 == --* && $name != *" "* && " ${settings[*]} " == *" $name "* ]] ||
      refuse "$1 is not valid: give --dry_run, --verbose, --names or some of ${settings[*]/#/--}"
    shift
    local values=()
    while (($#)) && [[ $1 != --* ]]; do
      [[ $1 != *$'\n'* ]] || refuse "--$name takes no line breaks"
      values+=("$1")
      shift
    done
    ((${#values[@]})) || refuse "--$name needs a value"
    set_setting "$name" "${values[@]}"
  done
  [[ $verbose == no || $dry_run == yes ]] || refuse "--verbose has no effect without --dry_run"
  [[ $jobs =~ ^([1-9][0-9]*)?$ ]] || refuse "--jobs $jobs is not valid: give an integer in [1,inf)"
  summary_dir=${summary_dir:-$results}
  plot_dir=${plot_dir:-$results}
  for name in data_dir results summary_dir plot_dir; do  # a name like -new would be taken for a flag
    [[ ${!name} != -* ]] || printf -v "$name" %s "./${!name}"
  done
  export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
  unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT  # set by torchrun and in some containers: runs of a sweep are local
  [[ $dry_run == yes ]] || find_python  # a dry run needs no torch, so it installs nothing
}

# set_setting NAME VALUE...: set a variable, or all elements of an array variable.
set_setting() {
  local name=$1
  shift
  if [[ $(declare -p "$name") == "declare -a"* ]]; then
    [[ $* == *[![:space:]]* ]] || refuse "--$name needs a value"
    read -ra "${name?}" <<<"$*"  # accepts "2 6" as well as 2 6
  elif (($# == 1)); then
    printf -v "$name" %s "$1"
  else
    refuse "--$name takes one value, not $*"
  fi
}

# read_folder NAME... -- ARGUMENTS: read the first argument of a driver, a folder, which is also the default for its
# results, and then its settings.
read_folder() {
  local names=()
  while [[ $1 != -- ]]; do
    names+=("$1")
    shift
  done
  shift
  results=FOLDER
  [[ ${1:-} != -h && ${1:-} != --help ]] || describe "${driver_settings[@]}" ${names[@]+"${names[@]}"}
  [[ -n ${1:-} && $1 != --* ]] || refuse "give the folder of the runs as the first argument"
  [[ -d $1 ]] || refuse "$1: no such folder"
  folder=$1
  [[ $folder != -* ]] || folder=./$folder  # it would be taken for a flag
  results=$folder
  read_settings ${names[@]+"${names[@]}"} -- "${@:2}"
}

# describe NAME...: print the driver's header comment and its settings, and exit.
describe() {
  local name
  print_header
  printf '\nSettings, their values, and what they are:\n'
  printf '  %-44s %s\n' --dry_run 'only report how many runs there are, and how long they take' \
    --verbose 'with --dry_run: the commands as well' --names 'only print the names of the runs'
  for name in "$@"; do
    local -n value=$name
    printf '  %-44s %s\n' "--$name ${value[*]}" "$(comment_on "$name")"
  done
  exit 0
}

# print_header: print the driver's header comment.
print_header() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${SUITE_DRIVER:-$0}" | sed '/^shellcheck /d'
}

# comment_on NAME: print the comment beside the default of a setting, in the driver or in this file.
comment_on() {
  sed -n "s/^$1=.*[^ ] \{1,\}# //p; s/^$1= *# //p" "$0" "$ROOT/scripts/lib.sh" | head -n 1
}

# refuse TEXT: print an error in one line, and exit with the code for wrong usage.
refuse() {
  printf '%s: error: %s\n' "$(basename "${SUITE_DRIVER:-$0}")" "$*" >&2
  exit 2
}

# find_python: use an environment in which the suite is already installed, or install it.
find_python() {
  local venv=${VENV:-$ROOT/.venv}
  if [[ ! -d $venv ]] && python3 -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))'; then
    return
  fi
  prepare_environment requirements.txt
}

# Runs a module of this checkout, whatever the folder and the environment contain.
run_module='import runpy, sys
sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)'

# module NAME ARGUMENTS...: run a module of this checkout.
module() {
  python3 -c "$run_module" "$ROOT" "$@"
}

# run_python_driver MODULE ARGUMENTS...: run a driver that is written in Python, in place of the shell: signals reach it.
run_python_driver() {
  unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT  # set by torchrun and in some containers: the runs are local
  case " $* " in
    *" --dry_run "* | *" --names "*) dry_module "$@" ;;  # needs no torch, so it installs nothing, as --help does
    *" --help "* | *" -h "*) module "$@" ;;
    *)
      find_python
      exec python3 -c "$run_module" "$ROOT" "$@"
      ;;
  esac
}

# plan PROOF SCRIPT FLAGS...: plan a run; scripts/sweep.py describes PROOF.
plan() {
  local line
  printf -v line "'%s' " "${@//\'/\'\"\'\"\'}"  # as a POSIX shell, and shlex, reads them in any locale
  planned+=("$line")
}

# train SCRIPT FLAGS...: plan one training run per seed, with the settings of the driver.
train() {
  local script=$1 seed flags=(${evals_per_epoch:+--evals_per_epoch "$evals_per_epoch"})
  shift
  if [[ $script != nonDistributed.py ]]; then
    [[ $stop == epochs ]] || flags+=(--stop "$stop")
    flags+=(${max_seconds:+--max_seconds "$max_seconds"} ${local_steps:+--local_steps "$local_steps"})
    [[ $clock == wall ]] || flags+=(--clock "$clock")
    flags+=(${compute_ms:+--compute_ms "$compute_ms"} ${compute_time:+--compute_time "$compute_time"}
      ${worker_speeds[@]+--worker_speeds "${worker_speeds[@]}"}
      ${communication_ms:+--communication_ms "$communication_ms"})
  fi
  for seed in "${seeds[@]}"; do
    plan "$done_when" "$script" --dataset "$dataset" --data_dir "$data_dir" --train_split "$train_split" --lr "$lr" \
      --batch_size "$batch_size" --epochs "$epochs" "$@" "${flags[@]}" --seed "$seed" --subfolder "$results"
  done
}

# report_of NAME: print the path of the report of the test of a run.
report_of() {
  printf '%s\n' "$plot_dir/$1_model_test_performance.txt"
}

# test_run BASE: plan the test, with all reports of test_model.py, of the run whose file names start with BASE.
test_run() {
  local base=$1
  plan "$(report_of "${base##*/}")" \
    test_model.py "${base}_model.pt" "${base}_log.log" \
    --classification_report --training_time --pics --data_dir "$data_dir" --subfolder "$plot_dir"
}

# runs_in FOLDER: print the BASE of each complete run in a folder.
runs_in() {
  local log
  for log in "$1"/*_log.log; do
    [[ ! -f $log || ${log##*/} == *_partial[0-9]*_log.log ]] || printf '%s\n' "${log%_log.log}"
  done
}

# logs_of NAME...: set `logs` to the paths of the logs of these runs.
logs_of() {
  local name
  logs=()
  for name in "$@"; do
    logs+=("$results/${name}_log.log")
  done
}

# split PARTITION WORLD_SIZE: set `split` to the flags for both. A label split needs two workers: it uses world size 3,
# not 2.
split() {
  local partition=$1 world_size=$2
  [[ $partition != split_labels || $world_size != 2 ]] || world_size=3
  split=(--world_size "$world_size")
  [[ $partition == none ]] || split+=("--$partition")
}

# delay_of DELAY: set `delay_of` to the flags for a delay: an intensity (small, medium, long) or a number of milliseconds.
delay_of() {
  case $1 in
    small | medium | long) delay_of=(--delay_intensity "$1") ;;
    *) delay_of=(--delay_ms "$1") ;;
  esac
}

# product NUMBER FACTOR: print their product, in any locale. What is not a number is printed as it is, for the training
# script to refuse it.
product() {
  LC_ALL=C awk -v number="$1" -v factor="$2" 'BEGIN {
    if (number factor ~ /^[-+.0-9eE]+$/) printf "%.15g\n", number * factor; else print number
  }'
}

# matched_rate RATE MOMENTUM: print (1 - MOMENTUM) times a learning rate: with that momentum its steps become as large.
matched_rate() {
  product "$1" "$(LC_ALL=C awk -v momentum="$2" 'BEGIN { print 1 - momentum }')"
}

# sweep FLAGS...: pass the planned runs to scripts/sweep.py, or to the one that `answer_dry_runs` started.
sweep() {
  if [[ -z ${SUITE_PLANNER:-} ]]; then
    # A child of this shell, not of one side of a pipe: it ends when the driver is killed.
    module scripts.sweep --summary_dir "$summary_dir" "$@" < <(printf '%s\n' ${planned[@]+"${planned[@]}"})
  else
    ask_planner --summary_dir "$summary_dir" "$@"
  fi
}

# dry_module NAME ARGUMENTS...: the same as `module`, in a dry run.
dry_module() {
  if [[ -z ${SUITE_PLANNER:-} ]]; then
    module "$@"
  else
    ask_planner module "$@"
  fi
}

# ask_planner WORDS...: ask the scripts/sweep.py that `answer_dry_runs` started, print its answer, and return its code.
ask_planner() {
  local line=
  {
    printf "'%s' " "${@//\'/\'\"\'\"\'}"
    printf '\n'
    printf '%s\n' ${planned[@]+"${planned[@]}"} end
  } >&8
  while IFS= read -r line <&9 && [[ $line != "end "* ]]; do
    printf '%s\n' "$line"
  done
  [[ $line == "end "* ]] || return 1  # it was killed
  return "${line#end }"
}

# answer_dry_runs: start one scripts/sweep.py for all plans of this driver and of those that it starts. Each driver
# starting its own would take most of the time of a dry run of many.
answer_dry_runs() {
  coproc PLANNER { module scripts.sweep --serve; }
  # Opened anew: the drivers that this one starts inherit neither bash's own descriptors nor duplicates of them.
  exec 8>"/dev/fd/${PLANNER[1]}" 9<"/dev/fd/${PLANNER[0]}"
  export SUITE_PLANNER=yes
}

# run_planned: execute the planned runs. If one fails, the others and the driver continue.
run_planned() {
  local flags=(${jobs:+--jobs "$jobs"} ${scheduler:+--scheduler "$scheduler"} ${keep:+--keep "$keep"}) code=0
  [[ $dry_run == no ]] || flags+=(--dry_run)
  [[ $verbose == no ]] || flags+=(--verbose)
  [[ $names_only == no ]] || flags+=(--names)
  ((${#drawn[@]} == 0)) || flags+=(--drawn "${drawn[@]}")
  sweep ${flags[@]+"${flags[@]}"} || code=$?
  planned=()
  case $code in
    0) ;;
    "$RUNS_FAILED") status=1 ;;
    "$FILES_GONE") tell_gone ;;
    *) exit "$code" ;;
  esac
}

# tell_gone: say, once, why nothing is drawn.
tell_gone() {
  [[ $run_files == gone ]] ||
    echo "${drawn[0]} is already drawn, from files that are gone: remove it to have all of them made again"
  run_files=gone
}

# draw COMMAND...: draw from the files of runs, unless they are gone.
draw() {
  [[ $run_files == gone ]] || "$@"
}

# finish COMMAND...: summarise with COMMAND, and exit.
finish() {
  local code=0
  [[ $dry_run == yes ]] || "$@" || code=$?
  ! interrupted "$code" || exit "$code"
  ((code == 0)) || status=1
  exit "$status"
}

# interrupted CODE: whether a command with this exit code was ended by SIGHUP, SIGINT or SIGTERM.
interrupted() {
  (($1 == 129 || $1 == 130 || $1 == 143))
}

# run_and_measure MODULE ARGUMENTS...: execute the planned runs, summarise them, let a module measure their logs, exit.
run_and_measure() {
  local names
  names=$(sweep --names)
  run_planned
  # shellcheck disable=SC2086  # one word per run
  logs_of $names
  finish measure_logs "$@"
}

# measure_logs MODULE ARGUMENTS...: the summary, and what a module measures of the `logs`.
measure_logs() {
  summarise &&
    draw module "$1" "${logs[@]}" --summary_dir "$summary_dir" --plot_dir "$plot_dir" "${@:2}"
}

# summarise [FOLDER]: tabulate the training runs in a folder (default: the results), and report them in the results.
summarise() {
  module analysis.conclude "${1:-$results}" --summary_dir "$summary_dir" --report_dir "$results" --data_dir "$data_dir"
}

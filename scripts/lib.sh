# shellcheck shell=bash
# shellcheck disable=SC2034  # what is set here is used in the drivers
# What the scripts share. Source it behind `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# say TEXT: announce what comes next.
say() {
  printf '\n==> %s\n' "$*"
}

# prepare_environment REQUIREMENTS: install a requirements file into the project's own virtual environment
# (.venv, or $VENV), unless these very files are installed there already, and put it first on the PATH.
prepare_environment() {
  local requirements=$1 venv=${VENV:-$ROOT/.venv} wanted stamp
  wanted=$(cat "$ROOT"/requirements*.txt "$ROOT/constraints.txt" | cksum)
  stamp=$venv/.installed-$requirements
  if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    say "Installing $requirements into $venv"
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --requirement "$ROOT/$requirements" --constraint "$ROOT/constraints.txt"
    printf '%s\n' "$wanted" >"$stamp"
  fi
  export PATH="$venv/bin:$PATH"
}

# ----------------------------------------------------------------------------------------------------
# Drivers: a driver sets the variables of its experiment, reads its command line, plans runs and does them.
# ----------------------------------------------------------------------------------------------------

# Settings of every driver.
driver_settings=(jobs data_dir results summary_dir)
jobs=1                   # runs at a time
data_dir=data            # where data sets lie or are downloaded to
results=                 # where all outputs go
summary_dir=             # where trials.jsonl and the summary go (default: the results)
plot_dir=                # of the drivers that draw: where reports and figures go (default: the results)
dry_run=no               # --dry_run: only print what would be done

# Settings of every driver that trains: those of the published study.
training_settings=(dataset train_split lr batch_size epochs seeds clock compute_ms)
dataset=fashion_mnist
train_split=1
lr=0.005
batch_size=32
epochs=6
momentum=0.9             # unless it is swept
seeds=(42)
clock=wall
compute_ms=              # of a gradient on the virtual clock

done_when=row            # what shows that a training is done: see scripts/sweep.py
planned=()               # one line per run, as scripts/sweep.py reads it
status=0                 # of the driver: 1 once a run has failed

# read_settings NAME... -- ARGUMENTS: set the named variables, and those of every driver, from the command line.
# `--epochs 2` sets epochs; variables that are arrays take several values.
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
    esac
    [[ $1 == --* && " ${settings[*]} " == *" $name "* ]] ||
      refuse "$1 is not valid: give --dry_run or some of ${settings[*]/#/--}"
    shift
    local values=()
    while (($#)) && [[ $1 != --* ]]; do
      values+=("$1")
      shift
    done
    ((${#values[@]})) || refuse "--$name needs a value"
    set_setting "$name" "${values[@]}"
  done
  [[ $jobs =~ ^[1-9][0-9]*$ ]] || refuse "--jobs $jobs is not valid: give an integer in [1,inf)"
  summary_dir=${summary_dir:-$results}
  plot_dir=${plot_dir:-$results}
  export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
  [[ $dry_run == yes ]] || find_python  # what is only printed needs no torch: nothing is installed for it
}

# set_setting NAME VALUE...: give a variable of that name its value or values.
set_setting() {
  local name=$1
  shift
  if [[ $(declare -p "$name") == "declare -a"* ]]; then
    read -ra "${name?}" <<<"$*"  # "2 6" serves as well as 2 6
  elif (($# == 1)); then
    printf -v "$name" %s "$1"
  else
    refuse "--$name takes one value, not $*"
  fi
}

# read_folder FOLDER...: the first argument of a driver, whose results go there too unless told otherwise.
read_folder() {
  [[ ${1:-} != -h && ${1:-} != --help ]] || describe "${driver_settings[@]}"
  [[ -n ${1:-} && $1 != --* ]] || refuse "give the folder of the runs first"
  [[ -d $1 ]] || refuse "$1 is not valid: there is no such folder"
  folder=$1
  results=$folder
}

# describe NAME...: print the driver's head and its settings, and end.
describe() {
  local name
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  printf '\nSettings and their values:\n  --dry_run\n'
  for name in "$@"; do
    local -n value=$name
    printf '  --%s %s\n' "$name" "${value[*]}"
  done
  exit 0
}

# refuse TEXT: end with one line and the exit code of a wrong usage.
refuse() {
  printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2
  exit 2
}

# find_python: use an environment in which the suite is installed already, else install it.
find_python() {
  local venv=${VENV:-$ROOT/.venv}
  if [[ ! -d $venv ]] && python3 -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))'; then
    return
  fi
  prepare_environment requirements.txt
}

# plan PROOF SCRIPT FLAGS...: plan a run; scripts/sweep.py says what a PROOF is.
plan() {
  planned+=("$(printf '%q ' "$@")")
}

# train SCRIPT FLAGS...: plan a training with the settings of the driver, once for each seed.
train() {
  local script=$1 seed time=()
  shift
  if [[ $script != nonDistributed.py && $clock == virtual ]]; then
    time=(--clock virtual ${compute_ms:+--compute_ms "$compute_ms"})
  fi
  for seed in "${seeds[@]}"; do
    plan "$done_when" "$script" --dataset "$dataset" --data_dir "$data_dir" --train_split "$train_split" --lr "$lr" \
      --batch_size "$batch_size" --epochs "$epochs" "$@" "${time[@]}" --seed "$seed" --subfolder "$results"
  done
}

# test_run BASE: plan the test of the run whose files' names start with BASE, with all that test_model.py can report.
test_run() {
  local base=$1
  plan "$plot_dir/$(basename "$base")_model_test_performance.txt" \
    test_model.py "${base}_model.pt" "${base}_log.log" \
    --classification_report --training_time --pics --data_dir "$data_dir" --subfolder "$plot_dir"
}

# runs_in FOLDER: the BASE of each complete run in a folder.
runs_in() {
  local log
  for log in "$1"/*_log.log; do
    [[ ! -f $log || $log == *_partial[0-9]*_log.log ]] || printf '%s\n' "${log%_log.log}"
  done
}

# logs_of NAME...: set `logs` to the logs of these runs in the results.
logs_of() {
  logs=("${@/#/$results/}")
  logs=("${logs[@]/%/_log.log}")
}

# split PARTITION WORLD_SIZE: the flags of both. A label split has no lone worker: it takes world size 3 in place of 2.
split() {
  local partition=$1 world_size=$2
  [[ $partition != split_labels || $world_size != 2 ]] || world_size=3
  printf -- '--world_size %s' "$world_size"
  [[ $partition == none ]] || printf -- ' --%s' "$partition"
}

# delay_of DELAY: the flags of a delay that is an intensity (small, medium, long) or a number of milliseconds.
delay_of() {
  case $1 in
    *[a-z]*) printf -- '--delay_intensity %s' "$1" ;;
    *) printf -- '--delay_ms %s' "$1" ;;
  esac
}

# sweep FLAGS...: what is planned, to scripts/sweep.py.
sweep() {
  printf '%s\n' "${planned[@]}" | python3 -m scripts.sweep --summary_dir "$summary_dir" "$@"
}

# run_planned [JOBS]: do what is planned. A failed run keeps neither the others nor the driver from going on.
run_planned() {
  local flags=(--jobs "${1:-$jobs}") code=0
  # Runs beside one another: threads that spin while they wait would keep those of the other runs from the cores.
  ((${1:-jobs} == 1)) || export GOMP_SPINCOUNT=0
  [[ $dry_run == no ]] || flags+=(--dry_run)
  sweep "${flags[@]}" || code=$?
  planned=()
  ((code <= 1)) || exit "$code"
  ((code == 0)) || status=1
}

# finish COMMAND...: summarise with COMMAND, and end.
finish() {
  if [[ $dry_run == no ]]; then
    "$@" || status=1
  fi
  exit "$status"
}

# summarise [FOLDER]: the table of the trainings in a folder (the results without).
summarise() {
  python3 -m analysis.reports.summary "${1:-$results}" --summary_dir "$summary_dir" --data_dir "$data_dir"
}

# shellcheck shell=bash
# What the scripts share. Source it behind `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# say TEXT: tell what comes next.
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

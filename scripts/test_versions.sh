#!/usr/bin/env bash
# Run the tests with the oldest supported version of PyTorch and with the newest, each in a new environment.
#
#   bash scripts/test_versions.sh [PYTHON ...]
#   bash scripts/test_versions.sh python3.10 python3.14
#
# PYTHON: the interpreters to use (default python3). Downloads several GB and takes a quarter of an hour for each. Not
# part of the tests.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"
case " $* " in
  *" --help "* | *" -h "*) print_header && exit ;;
esac
cd "$ROOT"

# install PYTHON TORCH: install the development requirements with this version, a CPU build if there is one.
install() {
  local pip=("$1" -m pip install --quiet --disable-pip-version-check)
  [[ -z $index ]] || "${pip[@]}" --index-url "$index" "$2" torchvision &>/dev/null || true
  "${pip[@]}" --requirement requirements-dev.txt "$2"
}

oldest=$(sed -n 's/^torch>=\([0-9.]*\).*/\1/p' requirements.txt)
index=$(torch_index)
results=()
for python in "${@:-python3}"; do
  for torch in "torch==$oldest.*" torch; do
    folder=$(mktemp -d)
    name="$("$python" --version), $torch"
    say "$name"
    verdict="not available"
    if "$python" -m venv "$folder" && install "$folder/bin/python" "$torch"; then
      version=$("$folder/bin/python" -c 'import torch; print(torch.__version__)')
      verdict="failed with torch $version"
      if PATH="$folder/bin:$PATH" "$folder/bin/python" -m pytest --quiet --numprocesses auto --dist worksteal; then
        verdict="passed with torch $version"
      fi
    fi
    results+=("$name: $verdict")
    rm -rf "$folder"
  done
done

say "Results"
printf '%s\n' "${results[@]}"
[[ ${results[*]} == *passed* && ${results[*]} != *failed* ]]

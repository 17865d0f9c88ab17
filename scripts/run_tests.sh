#!/usr/bin/env bash
# Install the development requirements, then run the linters and all tests. Arguments are passed to pytest.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"
cd "$ROOT"

prepare_environment requirements-dev.txt

say "Linters"
ruff check .
ruff format --check .
shellcheck --external-sources scripts/*.sh docker/*.sh .ci/run

say "Tests"
python -m pytest --numprocesses auto --dist worksteal "$@"

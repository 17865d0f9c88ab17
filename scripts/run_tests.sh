#!/usr/bin/env bash
# Install what is needed, then run the linters and the whole test suite. Arguments go to pytest.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

prepare_environment requirements-dev.txt

say "Linters"
ruff check .
ruff format --check .
shellcheck --external-sources scripts/*.sh docker/*.sh .ci/run

say "Tests"
python -m pytest --numprocesses auto --dist worksteal "$@"

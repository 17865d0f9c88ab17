#!/usr/bin/env bash
# Build the documentation as a site, site/. Ends with an error if a link or an anchor leads nowhere.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/lib.sh"
cd "$ROOT"

prepare_environment requirements-docs.txt

say "Building the documentation"
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet  # without an advertisement

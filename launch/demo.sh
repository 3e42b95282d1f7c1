#!/usr/bin/env bash
# Trains, unlearns and proves it on this machine, from nothing to one page.
#
#   bash launch/demo.sh               about six minutes on 2 cores
#   bash launch/demo.sh --seeds 2     everything twice; other flags of
#                                     `nulls demo` work too
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/setup.sh
source launch/setup.sh
set_up ""
exec .venv/bin/nulls demo --config configs/demo.py "$@"

#!/usr/bin/env bash
# Format, lint and the whole test suite, in the checkout's own environment.
# Arguments go to pytest: `bash launch/test.sh tests/models`.
# Two processes, because most of a test's time is compilation, which uses one core.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$checkout"

"$venv_python" -m ruff format --check .
"$venv_python" -m ruff check .
"$venv_python" -m pytest --numprocesses 2 --dist loadfile "$@"

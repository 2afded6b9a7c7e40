#!/usr/bin/env bash
# Format check, lint and the tests, in the environment of the checkout.
# Arguments go to pytest: `bash launch/test.sh tests/models`.
# Two processes, because tests mostly compile, which uses one core.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$checkout"

"$venv_python" -m ruff format --check .
"$venv_python" -m ruff check .
"$venv_python" -m pytest --numprocesses 2 --dist loadfile "$@"

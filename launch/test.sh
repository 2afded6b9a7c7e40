#!/usr/bin/env bash
# Format check, lint and the tests, in the environment of the checkout.
# Arguments go to pytest: `bash launch/test.sh tests/models`.
# Two processes, because tests mostly compile, which uses one core. A process that runs out of tests
# takes over half of those that the other one still has.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$checkout"

"$venv_python" -m ruff format --check .
"$venv_python" -m ruff check .
"$venv_python" -m pytest --numprocesses 2 --dist worksteal "$@"

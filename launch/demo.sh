#!/usr/bin/env bash
# Segments a video: `bash launch/demo.sh [VIDEO_OR_FOLDER]`; without one, a clip that it renders.
# Makes the environment first where it is not there yet. Results go to `demo_output/`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$venv_python" "$checkout/launch/demo.py" "$@"

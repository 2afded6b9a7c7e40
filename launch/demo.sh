#!/usr/bin/env bash
# Segments a video, or a rendered clip: `bash launch/demo.sh [VIDEO_OR_FOLDER]`.
# Creates the environment first if needed. Results go to `demo_output/`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$venv_python" "$checkout/launch/demo.py" "$@"

#!/usr/bin/env bash
# The tests of the local page in headless Chromium; arguments go to pytest.
# Installs what is missing: Playwright's Python package, and Chromium where apt-get may do so. Where
# that fails a message says what to install, and no test is run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$checkout"

skip() {
  echo "The tests in a browser were not run: $1" >&2
  exit 0
}

if ! "$venv_python" -c 'import playwright' 2>/dev/null; then
  "$venv_python" -m pip install --quiet --use-pep517 -e "${checkout}[browser]" ||
    skip "the package playwright cannot be installed."
fi
if ! [ "${CHROMIUM:-}" ] && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null
then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null ||
      skip "apt-get cannot install chromium; install it, or set CHROMIUM to the path of one."
  else
    skip "there is no chromium; install it, or set CHROMIUM to the path of one."
  fi
fi
"$venv_python" -m pytest -m browser tests/web/test_browser.py "$@"

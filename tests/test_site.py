"""The documentation builds as a site without a warning, and has every page."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_site_builds_without_warnings(tmp_path):
    # The theme announces other programs by a warning of its own.
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    built = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert pages <= built
    text = (tmp_path / "site" / "refinement" / "index.html").read_text(encoding="utf-8")
    assert 'href="../tta/"' in text and "<table>" in text

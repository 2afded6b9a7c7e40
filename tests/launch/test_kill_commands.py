"""Stopped commands leave old or new results whole, and the next run leaves nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_stops_at_random_moments():
    command = [sys.executable, "launch/checks/kill_commands.py", "--moments", "5", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("5 moments of each command, 0 checks violated\n")

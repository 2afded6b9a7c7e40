"""Every experiment of the paper runs, at `tiny` and smaller, with its own setting.

What the settings do to the model and to the loss is tested where those are; that they are the
paper's, in test_config.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.oclr_flow import VARIANTS
from oclr_jax.train.record.journal import read_rows
from oclr_jax.weights.file import load_weights

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = [name for name in VARIANTS if name.startswith("ours_")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experiments")
    out = subprocess.run(
        [sys.executable, "tests/train/experiments.py", folder, *EXPERIMENTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    return folder


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_at_tiny(workdirs, name):
    workdir = workdirs / name
    rows = read_rows(workdir)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1),
        ("train", 2),
        ("validation", 2),
    ]
    assert all(np.isfinite(row["loss"]) for row in rows)
    # With modal masks alone there is nothing to rank; the squares do overlap.
    assert (rows[0]["order"] == 0) == (name == "ours_f")
    _, info = load_weights(workdir / "weights.safetensors")
    assert info.model.instance_norm == (name != "ours_d")
    assert info.model.frames == (2 if name == "ours_h" else 4)
    assert json.loads((workdir / "config.json").read_text())["experiment"] == name


def test_the_settings_change_the_training(workdirs):
    """Each experiment of table E7 learns something else from the same data; E6 differs in data."""
    loss = {name: read_rows(workdirs / name)[1]["loss"] for name in EXPERIMENTS}
    assert loss["ours_a"] == loss["ours_b"] == loss["ours_c"] == loss["ours_g"]
    assert len({loss[f"ours_{letter}"] for letter in "defghi"}) == 6

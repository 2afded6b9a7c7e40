"""Every experiment of the paper runs, at `tiny` and smaller, with its own setting.

What the settings do to the model and to the loss is tested where those are; that they are the
paper's, in test_config.py.
"""

import json

import numpy as np
import pytest

from configs.oclr_flow import VARIANTS, get_config
from oclr_jax.checkpoints.weights import load_weights
from oclr_jax.train.journal import read_rows
from oclr_jax.train.loop import train
from tests.train.squares import squares_data

EXPERIMENTS = [name for name in VARIANTS if name.startswith("ours_")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_at_tiny(tmp_path, name):
    config = get_config(f"{name},tiny")
    config.model.channels = (4, 8)
    config.model.height = config.model.width = 16
    config.validation_clips = 1
    config.update({"steps": 2, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
    train(config, tmp_path, squares_data(config))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1),
        ("train", 2),
        ("validation", 2),
    ]
    assert all(np.isfinite(row["loss"]) for row in rows)
    # With modal masks alone there is nothing to rank; the squares do overlap.
    assert (rows[0]["order"] == 0) == (name == "ours_f")
    _, info = load_weights(tmp_path / "weights.safetensors")
    assert info.model.instance_norm == (name != "ours_d")
    assert info.model.frames == (2 if name == "ours_h" else 4)
    assert json.loads((tmp_path / "config.json").read_text())["experiment"] == name

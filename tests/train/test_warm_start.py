"""Trainings that start from other weights, as far as names and shapes agree."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs.oclr_flow import get_config
from oclr_jax.errors import UserError
from oclr_jax.train.state import warm_start
from oclr_jax.train.task import Variables
from oclr_jax.train.tasks import open_task
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.train.toy import Toy, assert_same, leaves, toy_config, train_toy


@pytest.fixture
def config():
    config = toy_config()
    config.steps = 2
    return config


def test_training_starts_from_a_weights_file(tmp_path, config):
    first = train_toy(config, tmp_path / "first")
    config.init_weights = str(tmp_path / "first" / "weights.safetensors")
    config.optimizer.learning_rate = 0.0
    second = train_toy(config, tmp_path / "second")
    assert_same(second.params, first.ema_params)
    # The new weights record where they come from, also after a resumed training.
    config.steps = 3
    train_toy(config, tmp_path / "second")
    card = json.loads((tmp_path / "second" / "weights.safetensors.json").read_text())
    assert card["started_from"] == {"random": [], "weights": "toy"}
    card = json.loads((tmp_path / "first" / "weights.safetensors.json").read_text())
    assert "started_from" not in card


def test_training_starts_from_a_workdir_with_its_model_state(tmp_path, config):
    first = train_toy(config, tmp_path / "first")
    config.init_weights, config.seed = str(tmp_path / "first"), 1
    variables, origin = warm_start(config, Toy(), Toy().init_variables(1))
    assert_same(variables.params, first.ema_params)
    assert_same(variables.model_state, first.model_state)
    assert origin == {"random": [], "weights": config.init_weights, "steps": 2}


def test_weights_of_another_model_initialise_what_they_share(tmp_path, config, capsys):
    first = train_toy(config, tmp_path / "first")
    config.init_weights = str(tmp_path / "first" / "weights.safetensors")
    wide = Toy(width=6)
    start = wide.init_variables(3)
    variables, origin = warm_start(config, wide, start)
    ours = flatten_dict(variables.params, sep="/")
    random = ["head/kernel", "norm/bias", "norm/scale"]
    np.testing.assert_array_equal(ours["head/bias"], first.ema_params["head"]["bias"])
    for name in random:
        np.testing.assert_array_equal(ours[name], flatten_dict(start.params, sep="/")[name])
    assert origin["random"] == random
    assert "parameters come from" in capsys.readouterr().out


def test_weights_that_share_nothing_are_refused(tmp_path, config):
    np.savez(tmp_path / "other.npz", **{"elsewhere/kernel": np.zeros(3)})
    config.init_weights = str(tmp_path / "other.npz")
    with pytest.raises(UserError, match="other.npz has no parameter with the name and shape"):
        train_toy(config, tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def test_weights_that_cannot_be_read_are_named(tmp_path, config):
    config.init_weights = str(tmp_path / "none.npz")
    with pytest.raises(UserError, match="none.npz cannot be read .*; check --config.init_weights"):
        train_toy(config, tmp_path / "workdir")


def test_training_starts_from_a_published_checkpoint(tmp_path, shared_dir):
    published = shared_dir / "reference" / "golden" / "oclr_release_format.pth"
    info = convert_checkpoint(published, tmp_path / "converted.safetensors")
    config = get_config("tiny")
    config.init_weights = str(tmp_path / "converted.safetensors")
    config.model.update(info.model.to_dict())
    task = open_task(config)
    shapes = jax.eval_shape(lambda: task.init_variables(0))
    start = Variables(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.params))
    variables, origin = warm_start(config, task, start)
    expected = load_weights(config.init_weights)[0]
    for ours, theirs in zip(leaves(variables.params), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert origin["random"] == []

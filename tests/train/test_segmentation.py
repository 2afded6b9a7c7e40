"""The segmentation task in the loop, on moving squares."""

import dataclasses
import os
import signal

import numpy as np
import pytest

from configs.oclr_flow import get_config
from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.tasks import open_task
from oclr_jax.weights.file import load_weights
from tests.train.squares import squares_data
from tests.train.toy import assert_same, leaves


@pytest.fixture
def config():
    config = get_config("small,tiny")
    config.model.channels = (4, 8)
    config.model.height = config.model.width = 16
    config.model.frames = 3
    config.model.dropout = 0.2
    config.optimizer.learning_rate = 1e-2
    config.ema_decay = 0.9
    config.steps = 6
    config.log_every = 2
    config.evaluate_every = 3
    config.checkpoint_every = 2
    config.strips = (0, 1, 9)
    return config


@pytest.fixture(scope="module")
def trained():
    """A function that trains the task in a workdir."""

    def run(config, workdir, data=None):
        return train(config, workdir, open_task(config), data or squares_data(config))

    return run


@pytest.mark.slow
def test_the_loss_falls(tmp_path, config, trained):
    config.update({"steps": 120, "log_every": 20, "evaluate_every": 120, "checkpoint_every": 120})
    trained(config, tmp_path)
    loss = [row["loss"] for row in read_rows(tmp_path) if row["kind"] == "train"]
    assert loss[-1] < 0.6 * loss[0]


@pytest.mark.slow
def test_a_training_resumes_bit_exactly_and_exports_its_weights(tmp_path, config, trained):
    data = squares_data(config)

    def batches(start):
        for index, batch in enumerate(data.train_batches(start), start):
            if index == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    straight = trained(config, tmp_path / "straight")
    stopped = trained(
        config, tmp_path / "resumed", dataclasses.replace(data, train_batches=batches)
    )
    assert 0 < int(stopped.step) <= 3
    state = trained(config, tmp_path / "resumed")
    assert_same(state, straight)

    rows = read_rows(tmp_path / "resumed")
    assert {"modal_j", "amodal_j", "loss"} < set(rows[-1])
    params, info = load_weights(tmp_path / "resumed" / "weights.safetensors")
    assert (info.name, info.data_version) == ("oclr-tiny", "squares")
    assert info.flow == data.metadata["flow"]
    assert info.card["steps"] == 6
    assert info.card["validation"]["modal_j"] == rows[-1]["modal_j"]
    for ours, theirs in zip(leaves(params), leaves(state.ema_params), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(np.float32))
    best = max(r["modal_j"] for r in rows if r["kind"] == "validation")
    _, info = load_weights(tmp_path / "resumed" / "weights_best.safetensors")
    assert info.card["validation"]["modal_j"] == best
    strips = (tmp_path / "resumed").glob("strips/*/*")
    assert len(list(strips)) == 4

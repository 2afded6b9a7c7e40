"""Stopped trainings resume bit-exactly, or say why they cannot."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.train import checkpoints
from oclr_jax.train.record.journal import read_rows
from tests.train.toy import assert_same, toy_config, toy_data, train_toy


@pytest.fixture
def config():
    return toy_config()


def stopping_at(step: int):
    """The toy data, with a Ctrl-C while the batch of `step` is read."""
    data = toy_data(4)

    def batches(start):
        for index, batch in enumerate(data.train_batches(start), start):
            if index == step:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    return dataclasses.replace(data, train_batches=batches)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_training_resumes_bit_exactly(tmp_path, config, stop):
    straight = train_toy(config, tmp_path / "straight")
    stopped = train_toy(config, tmp_path / "resumed", stopping_at(stop))
    assert 0 < int(stopped.step) <= stop
    resumed = train_toy(config, tmp_path / "resumed")
    assert int(resumed.step) == 6
    assert_same(resumed, straight)
    # Batch statistics have changed, and were saved and restored with the rest.
    statistics = straight.model_state["batch_stats"]["norm"]
    assert not np.allclose(statistics["mean"], 0) and not np.allclose(statistics["var"], 1)
    scores = [
        [(r["step"], r["error"]) for r in read_rows(tmp_path / name) if r["kind"] == "validation"]
        for name in ("straight", "resumed")
    ]
    assert scores[0] == scores[1]


def test_a_finished_training_has_nothing_left_to_do(tmp_path, config, capsys):
    first = train_toy(config, tmp_path)
    again = train_toy(config, tmp_path, stopping_at(6))
    assert_same(again, first)
    assert "step 6 of 6" in capsys.readouterr().out


def test_an_evaluation_that_a_signal_cut_short_is_repeated(tmp_path, config):
    data = toy_data(4)

    def validation():
        for index, batch in enumerate(data.validation_batches()):
            if index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    stopping = dataclasses.replace(data, validation_batches=validation)
    assert int(train_toy(config, tmp_path, stopping).step) == 3
    train_toy(config, tmp_path)
    assert [r["step"] for r in read_rows(tmp_path) if r["kind"] == "validation"] == [3, 6]


def test_rows_after_the_resumed_step_are_written_again(tmp_path, config):
    train_toy(config, tmp_path, stopping_at(3))
    newest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": newest + 1, "loss": 9.0}) + "\n{cut o")
    train_toy(config, tmp_path)
    rows = read_rows(tmp_path)
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)
    assert all(r.get("loss") != 9.0 for r in rows)
    assert rows[-1]["step"] == 6


def test_frozen_parameters_are_not_in_checkpoints(tmp_path, config):
    train_toy(config, tmp_path)
    stored, step = checkpoints.load_checkpoint_variables(tmp_path / "checkpoints")
    assert step == 6 and set(stored) == {"params", "model_state"}
    names = {path.name for path in (tmp_path / "checkpoints").rglob("*")}
    assert not any("frozen" in name or "layer" in name for name in names)


def test_other_settings_do_not_resume(tmp_path, config):
    config.steps = 2
    train_toy(config, tmp_path)
    config.optimizer.groups = (("norm", 2.0),)
    with pytest.raises(UserError, match=r"other settings \(optimizer.groups was \[\] and is"):
        train_toy(config, tmp_path)


def test_another_version_of_the_checkpoints_is_refused_in_a_sentence(
    tmp_path, config, monkeypatch, capsys
):
    monkeypatch.setattr(checkpoints, "FORMAT", 1)
    train_toy(config, tmp_path)
    monkeypatch.undo()
    sentence = "^The checkpoints in .* were written by another version of this program"
    with pytest.raises(UserError, match=sentence):
        train_toy(config, tmp_path)
    config.init_weights = str(tmp_path)
    with pytest.raises(UserError, match=sentence):
        train_toy(config, tmp_path / "warm")
    assert not (tmp_path / "unreadable_states").exists()
    assert "damaged" not in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_and_is_not_saved(tmp_path, config):
    config.checkpoint_every = 1
    data = toy_data(4)

    def batches(start):
        for index, batch in enumerate(data.train_batches(start), start):
            if index == 2:
                batch["x"][0, 0] = np.nan
            yield batch

    with pytest.raises(UserError, match="step 3: the loss is nan"):
        train_toy(config, tmp_path, dataclasses.replace(data, train_batches=batches))
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {1, 2}


def test_a_skipped_step_leaves_the_model_state(tmp_path, config):
    """A batch that is not finite would ruin the batch statistics for good."""
    config.on_nonfinite = "skip"
    data = toy_data(4)

    def batches(start):
        for index, batch in enumerate(data.train_batches(start), start):
            if index == 2:
                batch["x"][0, 0] = np.nan
            yield batch

    state = train_toy(config, tmp_path, dataclasses.replace(data, train_batches=batches))
    assert int(state.step) == 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))

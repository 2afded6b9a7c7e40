"""The loop on a toy task: what it writes, when it ends, and what it refuses."""

import dataclasses
import gzip
import json
import os

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.record.profiling import SKIPPED_STEPS, TRACED_STEPS
from tests.train.toy import Toy, leaves, toy_batch, toy_config, toy_data, train_toy


@pytest.fixture
def config():
    return toy_config()


def checkpoints(workdir) -> set[int]:
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


def test_the_loss_falls(tmp_path, config):
    config.update({"steps": 150, "log_every": 30, "evaluate_every": 150, "checkpoint_every": 150})
    train_toy(config, tmp_path)
    loss = [row["loss"] for row in read_rows(tmp_path) if row["kind"] == "train"]
    assert loss[-1] < 0.6 * loss[0]


def test_what_a_training_leaves(tmp_path, config, draws_report):
    state = train_toy(config, tmp_path, command="the command")
    rows = read_rows(tmp_path)
    assert [(r["kind"], r["step"]) for r in rows] == [
        ("train", 2),
        ("validation", 3),
        ("train", 4),
        ("train", 6),
        ("validation", 6),
    ]
    assert {"error", "seconds"} < set(rows[1])
    assert {"loss", "steps_per_s", "data_wait", "learning_rate", "grad_norm"} < set(rows[0])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").iterdir())
    strips = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("strips/*/*"))
    assert strips == [f"strips/clip_{clip}/{step:09d}.png" for clip in (0, 1) for step in (3, 6)]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1 + len(strips)
    assert "Step 6 of 6: finished" in page and "optimizer.learning_rate" in page

    card = json.loads((tmp_path / "weights.safetensors.json").read_text())
    assert (card["command"], card["steps"], card["seed"]) == ("the command", 6, 0)
    assert card["validation"]["error"] == rows[-1]["error"]
    assert card["config"]["steps"] == 6
    # The averaged parameters are evaluated and exported.
    exported, _ = Toy().load_weights(tmp_path / "weights.safetensors")
    for ours, theirs in zip(leaves(exported.params), leaves(state.ema_params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    best = min((r for r in rows if r["kind"] == "validation"), key=lambda r: r["error"])
    assert {4, 6, best["step"]} == checkpoints(tmp_path)
    card = json.loads((tmp_path / "weights_best.safetensors.json").read_text())
    assert card["validation"]["error"] == best["error"]


def test_a_profile_is_written_and_the_use_of_the_machine_is_logged(tmp_path, config):
    config.steps, config.log_every = SKIPPED_STEPS + TRACED_STEPS + 2, 5
    train_toy(config, tmp_path, profile=True)
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    assert gzip.decompress(trace.read_bytes()).startswith(b"{")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    row = next(row for row in read_rows(tmp_path) if row["kind"] == "train")
    assert row["tflops_per_s"] > 0 and row["peak_gib"] > 0 and 0 <= row["data_wait"] <= 1


def ending(error: Exception | None, after: int):
    """The toy data, which ends or fails after some batches."""
    data = toy_data(4)

    def batches(start):
        for step in range(start, after):
            yield toy_batch(step, 4)
        if error:
            raise error

    return dataclasses.replace(data, train_batches=batches)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (None, "^The training data ended before the training did"),
        (OSError(5, "Input/output error", "shard"), r"^The data cannot be read \(.*'shard'\)"),
        (UserError("sequence 3 is broken"), "^sequence 3 is broken"),
    ],
)
def test_where_data_fails_the_state_is_saved_and_the_error_is_about_the_data(
    tmp_path, config, error, words
):
    config.checkpoint_every = 100
    with pytest.raises(UserError, match=words):
        train_toy(config, tmp_path, ending(error, after=5))
    # That of step 3 is the best.
    assert checkpoints(tmp_path) == {3, 5}
    assert int(train_toy(config, tmp_path).step) == 6


@pytest.mark.parametrize(
    ("error", "words"),
    [(None, "^The validation set is empty"), (OSError(5, "gone"), "^The data cannot be read")],
)
def test_where_validation_fails_the_state_is_saved(tmp_path, config, error, words):
    def validation():
        if error:
            raise error
        yield from ()

    data = dataclasses.replace(toy_data(4), validation_batches=validation)
    with pytest.raises(UserError, match=words):
        train_toy(config, tmp_path, data)
    assert checkpoints(tmp_path) == {2, 3}


def test_a_workdir_that_cannot_be_written_is_another_error(tmp_path, config, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("oclr_jax.train.record.journal.Journal.write", full)
    with pytest.raises(UserError, match=r"^The workdir .* cannot be used \(.*No space.* make room"):
        train_toy(config, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^The workdir .*file cannot be used"):
        train_toy(config, tmp_path / "file")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("keep_checkpoints", 0, "keep_checkpoints is 0; it must be at least 1"),
        ("keep_best", -1, "keep_best is -1; it must be at least 0"),
        ("log_every", 0, "log_every is 0; it must be at least 1"),
        ("evaluate_every", 0, "evaluate_every is 0"),
        ("checkpoint_every", -3, "checkpoint_every is -3"),
        ("steps", 0, "steps is 0"),
        ("validation_clips", -1, "validation_clips is -1"),
        ("max_skips", -1, "max_skips is -1"),
        ("ema_decay", 1.0, "ema_decay is 1.0; it must be at least 0 and less than 1"),
        ("on_nonfinite", "hope", "choose stop or skip"),
        ("parallel", "xmap", "choose one of jit, pmap"),
        ("optimizer.groups", (("tail", 2.0),), "No parameter matches 'tail'"),
        ("optimizer.groups", (("(", 2.0),), "no regular expression"),
    ],
)
def test_values_that_make_no_sense_are_refused(tmp_path, config, field, value, words):
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        train_toy(config, tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


def test_only_the_newest_checkpoint_stays_where_one_is_kept(tmp_path, config):
    config.keep_checkpoints, config.keep_best = 1, 0
    train_toy(config, tmp_path)
    assert checkpoints(tmp_path) == {6}


def test_batches_are_closed_however_the_training_ends(tmp_path, config):
    closed = []

    def batches(start):
        try:
            for step in range(start, 100):
                yield toy_batch(step, 4)
        finally:
            closed.append(os.getpid())

    train_toy(config, tmp_path, dataclasses.replace(toy_data(4), train_batches=batches))
    assert len(closed) == 1

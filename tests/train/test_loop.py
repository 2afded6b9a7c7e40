"""The loop on moving squares: it learns, resumes bit-exactly, stops cleanly, refuses clearly."""

import dataclasses
import gzip
import json
import os
import signal

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs.oclr_flow import get_config
from oclr_jax.errors import UserError
from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.record.profiling import SKIPPED_STEPS, TRACED_STEPS
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.train.squares import squares_data


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
    config.keep_checkpoints = 2
    config.strips = (0, 1, 9)
    return config


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def stopping_at(data, step):
    """The same data, with a Ctrl-C while the batch of `step` is read."""

    def batches(start):
        for index, batch in enumerate(data.batches(start), start):
            if index == step:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    return dataclasses.replace(data, batches=batches)


def test_the_loss_falls(tmp_path, config):
    config.update({"steps": 120, "log_every": 20, "evaluate_every": 120, "checkpoint_every": 120})
    train(config, tmp_path, squares_data(config))
    loss = [row["loss"] for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert loss[-1] < 0.6 * loss[0]


def test_what_a_training_leaves(tmp_path, config):
    data = squares_data(config)
    state = train(config, tmp_path, data, command="the command")
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [(r["kind"], r["step"]) for r in rows] == [
        ("train", 2),
        ("validation", 3),
        ("train", 4),
        ("train", 6),
        ("validation", 6),
    ]
    assert {"modal_j", "amodal_j", "loss"} < set(rows[1])
    assert {"steps_per_s", "data_wait", "learning_rate", "grad_norm"} < set(rows[0])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").iterdir())
    strips = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("strips/*/*"))
    assert strips == [f"strips/clip_{clip}/{step:09d}.png" for clip in (0, 1) for step in (3, 6)]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1 + len(strips)
    assert "Step 6 of 6: finished" in page and "optimizer.learning_rate" in page

    params, info = load_weights(tmp_path / "weights.safetensors")
    assert (info.name, info.data_version, info.flow) == ("oclr-tiny", "squares", data.flow)
    assert info.card["command"] == "the command"
    assert info.card["steps"] == 6
    assert info.card["validation"]["modal_j"] == rows[-1]["modal_j"]
    assert info.card["config"]["steps"] == 6
    for ours, theirs in zip(leaves(params), leaves(state.average), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(np.float32))
    best = max((r for r in rows if r["kind"] == "validation"), key=lambda r: r["modal_j"])
    steps = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert {4, 6} <= steps
    # Of states that score the same any may stay.
    assert best["modal_j"] in [r["modal_j"] for r in rows if r["step"] in steps and "modal_j" in r]
    _, info = load_weights(tmp_path / "weights_best.safetensors")
    assert info.card["validation"]["modal_j"] == best["modal_j"]


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_training_resumes_bit_exactly(tmp_path, config, stop):
    data = squares_data(config)
    straight = train(config, tmp_path / "straight", data)
    stopped = train(config, tmp_path / "resumed", stopping_at(data, stop))
    assert 0 < int(stopped.step) <= stop
    resumed = train(config, tmp_path / "resumed", data)
    assert int(resumed.step) == 6
    for ours, theirs in zip(leaves(resumed), leaves(straight), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    scores = [
        [
            (r["step"], r["loss"])
            for r in read_rows(tmp_path / name / "metrics.jsonl")
            if r["kind"] == "validation"
        ]
        for name in ("straight", "resumed")
    ]
    assert scores[0] == scores[1]


def test_a_finished_training_has_nothing_left_to_do(tmp_path, config, capsys):
    data = squares_data(config)
    first = train(config, tmp_path, data)
    again = train(config, tmp_path, stopping_at(data, 6))
    for ours, theirs in zip(leaves(again), leaves(first), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "step 6 of 6" in capsys.readouterr().out


def test_an_evaluation_that_a_signal_cut_short_is_made_up_for(tmp_path, config):
    data = squares_data(config)

    def validation():
        for index, batch in enumerate(data.validation()):
            if index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    stopped = train(config, tmp_path, dataclasses.replace(data, validation=validation))
    assert int(stopped.step) == 3
    train(config, tmp_path, data)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows if r["kind"] == "validation"] == [3, 6]


def test_rows_after_the_resumed_step_are_written_again(tmp_path, config):
    data = squares_data(config)
    train(config, tmp_path, stopping_at(data, 3))
    newest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": newest + 1, "loss": 9.0}) + "\n{cut o")
    train(config, tmp_path, data)
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)
    assert all(r.get("loss") != 9.0 for r in rows)
    assert rows[-1]["step"] == 6


def test_a_loss_that_is_not_finite_stops_and_is_not_saved(tmp_path, config):
    config.checkpoint_every = 1
    data = squares_data(config)

    def batches(start):
        for index, batch in enumerate(data.batches(start), start):
            if index == 2:
                batch["flow"][0, 0, 0, 0, 0] = np.nan
            yield batch

    with pytest.raises(UserError, match="step 3: the loss is nan"):
        train(config, tmp_path, dataclasses.replace(data, batches=batches))
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {1, 2}


def test_another_model_does_not_resume(tmp_path, config):
    data = squares_data(config)
    config.steps = 2
    train(config, tmp_path, data)
    config.model.channels = (4, 16)
    with pytest.raises(UserError, match=r"other settings \(model.channels was \[4, 8\] and is"):
        train(config, tmp_path, data)


def test_training_starts_from_given_weights(tmp_path, config):
    data = squares_data(config)
    config.steps = 2
    config.export_dtype = "float32"
    first = train(config, tmp_path / "first", data)
    config.init_weights = str(tmp_path / "first" / "weights.safetensors")
    config.optimizer.learning_rate = 0.0
    second = train(config, tmp_path / "second", data)
    for ours, theirs in zip(leaves(second.params), leaves(first.average), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The new weights tell where they come from, also after a resumed training.
    config.steps = 3
    train(config, tmp_path / "second", data)
    origin = load_weights(tmp_path / "second" / "weights.safetensors")[1].card["started_from"]
    assert origin["steps"] == 2 and origin["weights"] == "oclr-tiny"
    assert "started_from" not in load_weights(config.init_weights)[1].card


@pytest.mark.parametrize("kind", ["workdir", "release"])
def test_training_starts_from_a_workdir_or_a_release(tmp_path, config, kind, request):
    data = squares_data(config)
    config.steps, config.optimizer.learning_rate = 1, 0.0
    if kind == "workdir":
        first = train(config, tmp_path / "first", data)
        config.seed, config.init_weights = 1, str(tmp_path / "first")
        expected = first.average
    else:
        released = request.getfixturevalue("shared_dir") / "reference" / "golden"
        released = released / "oclr_release_format.pth"
        info = convert_checkpoint(released, tmp_path / "released.safetensors")
        config.init_weights = str(tmp_path / "released.safetensors")
        config.model.update(info.model.to_dict())
        config.model.update({"height": 32, "width": 32, "frames": 2})
        data = squares_data(config)
        expected = load_weights(config.init_weights)[0]
    second = train(config, tmp_path / "second", data)
    for ours, theirs in zip(leaves(second.params), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert json.loads((tmp_path / "second" / "started_from.json").read_text())["random"] == []


def test_weights_of_another_model_start_what_they_share(tmp_path, config, capsys):
    data = squares_data(config)
    config.steps = 2
    config.export_dtype = "float32"
    first = train(config, tmp_path / "first", data)
    config.init_weights = str(tmp_path / "first" / "weights.safetensors")
    config.optimizer.learning_rate = 0.0
    config.model.channels = (6, 8)
    config.seed += 1
    second = train(config, tmp_path / "second", data)
    theirs, ours = flatten_dict(first.average, sep="/"), flatten_dict(second.params, sep="/")
    new = sorted(name for name in ours if ours[name].shape != theirs[name].shape)
    assert new and all(name.startswith("unet_") for name in new)
    for name in ours.keys() - new:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert f"{len(new)} start random: {new}" in capsys.readouterr().out
    assert json.loads((tmp_path / "second" / "started_from.json").read_text())["random"] == new


def test_a_profile_is_written_and_the_use_of_the_machine_is_logged(tmp_path, config):
    config.steps, config.log_every = SKIPPED_STEPS + TRACED_STEPS + 2, 5
    train(config, tmp_path, squares_data(config), profile=True)
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    assert gzip.decompress(trace.read_bytes()).startswith(b"{")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    row = next(row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train")
    assert row["tflops_per_s"] > 0 and row["peak_gib"] > 0 and 0 <= row["data_wait"] <= 1


def test_data_that_ends_is_an_error(tmp_path, config):
    data = squares_data(config)
    short = dataclasses.replace(
        data, batches=lambda start: (b for b, _ in zip(data.batches(start), range(3), strict=False))
    )
    with pytest.raises(UserError, match="data ended"):
        train(config, tmp_path, short)
    with pytest.raises(UserError, match="validation set is empty"):
        train(config, tmp_path, dataclasses.replace(data, validation=lambda: iter(())))

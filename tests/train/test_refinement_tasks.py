"""The tasks of the mask selector and the mask corrector in the loop, on moving squares."""

import dataclasses
import os
import signal
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import corrector, selector
from oclr_jax.errors import UserError
from oclr_jax.models.parameters import flatten
from oclr_jax.train.data import TrainingData
from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.tasks import open_task
from oclr_jax.train.tasks.masks_and_frames import matched_masks
from oclr_jax.weights.file import load_weights
from tests.train.squares import squares
from tests.train.toy import assert_same, leaves

KINDS = ("selector", "corrector")
# Compiling takes most of the time, so that one of the two is tested by default.


def colored_squares(index: int, batch: int, frames: int, height: int, width: int) -> dict:
    """Squares of their own colours, and predicted masks of them, in another order.

    The predictions miss the first frame.
    """
    clip = squares(index, batch, frames, height, width)
    colors = np.array([[250, 40, 40], [40, 250, 40], [40, 40, 250]])
    rgb = 90 + (clip["modal"][..., None] * (colors - 90)).sum(axis=-2)
    predicted = clip["amodal"][..., [2, 0, 1]] * np.uint8(250)
    predicted[:, 0] = 0
    return {
        "rgb": rgb.astype(np.uint8),
        "modal": clip["modal"],
        "predicted": predicted,
        "predicted_order": np.tile(np.float32([9, 1, 2]), (batch, frames, 1)),
    }


def squares_data(config) -> TrainingData:
    size = (config.data.frames, config.model.height, config.model.width)

    def batches(start):
        for step in range(start, 10**9):
            yield colored_squares(step, config.batch_size, *size)

    def validation():
        return (colored_squares(10**6 + i, 1, *size) for i in range(2))

    return TrainingData(batches, validation, {"data_version": "squares"})


def tiny_config(kind: str, variants: str = "tiny"):
    config = {"selector": selector, "corrector": corrector}[kind].get_config(variants)
    config.model.height = config.model.width = 16
    config.model.channels = (4, 8)
    config.model.dropout = 0.2
    config.data.frames = 4
    config.optimizer.learning_rate = 1e-2
    config.ema_decay = 0.9
    config.steps = 4
    config.log_every = 2
    config.evaluate_every = 2
    config.checkpoint_every = 2
    config.strips = (0,)
    return config


def run(config, workdir, data=None):
    return train(config, workdir, open_task(config), data or squares_data(config))


# The loop resumes in the same way for every task; tests/train/test_resume.py checks it in seconds.
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["selector", "corrector"])
def test_a_training_resumes_bit_exactly_and_exports_its_weights(tmp_path, kind):
    config = tiny_config(kind)
    data = squares_data(config)

    def batches(start):
        for index, batch in enumerate(data.train_batches(start), start):
            if index == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    straight = run(config, tmp_path / "straight")
    stopping = dataclasses.replace(data, train_batches=batches)
    stopped = run(config, tmp_path / "resumed", stopping)
    assert 0 < int(stopped.step) <= 3
    state = run(config, tmp_path / "resumed")
    assert_same(state, straight)

    scores = read_rows(tmp_path / "resumed")[-1]
    task = open_task(config)
    assert set(task.scores) <= set(scores)
    params, info = load_weights(tmp_path / "resumed" / "weights.safetensors", kind)
    assert (info.name, info.card["data_version"]) == (f"{kind}-tiny", "squares")
    assert info.model == dataclasses.replace(task.config, compute_dtype="float32")
    for ours, theirs in zip(leaves(params), leaves(state.ema_params), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(np.float32))
    assert len(list((tmp_path / "resumed").glob("strips/*/*"))) == 2


@cache
def task_and_gradient(kind: str):
    """A task, its variables, and its compiled loss with gradient on a batch."""
    config = tiny_config(kind)
    task = open_task(config)
    size = (config.data.frames, config.model.height, config.model.width)
    batch = colored_squares(0, 2, *size)
    batch["modal"][1] = batch["modal"][1] * np.uint8([1, 0, 0])
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    batch["example_key"] = jax.random.split(jax.random.key(3), 2)
    variables = task.init_variables(0)

    @jax.jit
    def gradient(params, part, normalizer):
        return jax.value_and_grad(
            lambda p: task.loss(variables._replace(params=p), part, normalizer), has_aux=True
        )(params)

    return task, variables, batch, gradient


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_does_not_depend_on_how_a_batch_is_split(kind):
    task, variables, batch, gradient = task_and_gradient(kind)
    whole = jnp.float32(task.loss_normalizer(batch))
    (loss, aux), grads = gradient(variables.params, batch, whole)
    assert jnp.isfinite(loss) and float(loss) == float(aux.metrics["loss"])
    largest = {path: np.abs(leaf).max() for path, leaf in flatten(grads).items()}
    unreached = {path for path, value in largest.items() if value == 0}
    offsets = ("key/bias", "_attention/query/bias", "alpha2/bias")  # which a softmax removes
    assert {path for path in unreached if not path.endswith(offsets)} == set()
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(2)]
    counts = [float(task.loss_normalizer(part)) for part in parts]
    assert counts[0] != counts[1] and sum(counts) == float(whole)
    split = [gradient(variables.params, part, jnp.float32(whole / 2))[0][0] for part in parts]
    np.testing.assert_allclose(np.mean(split), loss, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "variant"), [("selector", "score"), ("corrector", "dense"), ("corrector", "alphas")]
)
def test_variants_of_the_tables_can_be_trained(kind, variant):
    """Traced, not compiled."""
    config = tiny_config(kind, f"tiny,{variant}")
    task = open_task(config)
    size = (config.data.frames, config.model.height, config.model.width)
    batch = colored_squares(0, 2, *size)
    variables = jax.eval_shape(lambda: task.init_variables(0))
    part = {**batch, "example_key": jax.random.split(jax.random.key(3), 2)}

    def gradient(params, part):
        normalizer = task.loss_normalizer(part).astype(jnp.float32)
        return jax.grad(
            lambda p: task.loss(variables._replace(params=p), part, normalizer), has_aux=True
        )(params)

    gradients, aux = jax.eval_shape(gradient, variables.params, part)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, variables.params)
    assert "loss" in aux.metrics
    sums, _ = jax.eval_shape(task.evaluate, variables, batch)
    parts = {f"{score}_{part}" for score in task.scores for part in ("sum", "count")}
    assert sums.keys() == parts
    assert task.step_flops(2) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_learns(tmp_path, kind):
    config = tiny_config(kind)
    config.update({"steps": 500, "log_every": 50, "evaluate_every": 500, "checkpoint_every": 500})
    if kind == "corrector":
        config.model.mask_logit = 2.0
        config.loss.maps = 0.5
    run(config, tmp_path)
    rows = read_rows(tmp_path)
    loss = [row["loss"] for row in rows if row["kind"] == "train"]
    assert loss[-1] < 0.6 * loss[0]
    scores = next(row for row in rows if row["kind"] == "validation")
    if kind == "selector":
        assert scores["corrupted_ap"] > 0.8
    else:
        assert scores["corrupted_j"] > scores["corrupted_input_j"]


def test_predicted_masks_are_matched_to_the_truth():
    batch = colored_squares(0, 2, 3, 16, 16)
    masks, truth = matched_masks({name: jnp.asarray(value) for name, value in batch.items()})
    np.testing.assert_array_equal(masks[:, 1:], truth[:, 1:])
    assert truth[:, 0].any() and not masks[:, 0].any()


def test_settings_that_make_no_model_are_refused():
    config = tiny_config("corrector")
    config.model.heads = 3
    with pytest.raises(UserError, match="config.model makes no model: 3 heads"):
        open_task(config)
    config = tiny_config("corrector")
    config.data.frames = 1
    with pytest.raises(UserError, match="shorter than a window"):
        open_task(config)
    config = tiny_config("corrector")
    config.model.objects = 2
    with pytest.raises(UserError, match="model.objects"):
        open_task(config)


def test_a_frozen_backbone_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = tiny_config("selector")
    config.model.backbone = "dino_vits16"
    with pytest.raises(UserError, match="dino_deitsmall16_pretrain"):
        open_task(config)

"""The task of Mask R-CNN: its loss, its batch statistics, and a training in the loop."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.mask_rcnn import VARIANTS, get_config
from oclr_jax.models.baselines.mask_rcnn import MaskRCNNConfig
from oclr_jax.models.parameters import flatten
from oclr_jax.train.data import TrainingData
from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.state import init_state
from oclr_jax.train.step import make_train_step
from oclr_jax.train.tasks import open_task
from oclr_jax.train.tasks.mask_rcnn import MaskRCNNLoss
from oclr_jax.weights.file import load_weights
from tests.train.squares import FLOW_SETTINGS, squares
from tests.train.toy import leaves


def tiny_config(variants: str = "tiny", **changes):
    config = get_config(variants)
    config.data.frames = 2
    config.strips = (0,)
    config.update({"log_every": 2, "evaluate_every": 4, "checkpoint_every": 4, "steps": 4})
    config.update(changes)
    return config


def example(config, index: int, batch: int) -> dict:
    clip = squares(index, batch, config.data.frames, config.model.height, config.model.width)
    rgb = clip["modal"] * np.uint8(90) + np.uint8(60)
    return clip | {"rgb": rgb}


def squares_data(config) -> TrainingData:
    def batches(start):
        for step in range(start, 10**9):
            yield example(config, step, config.batch_size)

    metadata = {"data_version": "squares", "flow": FLOW_SETTINGS}
    validation = lambda: (example(config, 10**6 + i, 1) for i in range(2))  # noqa: E731
    return TrainingData(batches, validation, metadata)


def test_the_base_and_every_variant_make_a_task():
    task = open_task(get_config())
    assert task.config == MaskRCNNConfig() and task.weights == MaskRCNNLoss()
    for name in VARIANTS:
        task = open_task(get_config(name))
        assert ("rgb" in task.batch_fields) == (name == "rgb")
    assert open_task(get_config("rgb,tiny")).config.channels == 7


@cache
def tiny_task():
    config = tiny_config()
    task = open_task(config)
    return task, task.init_variables(0), example(config, 0, 2)


@pytest.mark.slow
def test_a_step_updates_parameters_and_batch_statistics():
    task, variables, batch = tiny_task()
    optimizer = optax.sgd(0.1)
    state = init_state(variables, optimizer, ema=False)
    step = jax.jit(make_train_step(task, optimizer, seed=0))
    after, metrics = step(state, {}, batch)
    assert {"loss", "objectness", "proposal_box", "score", "box", "mask"} < set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    assert float(metrics["mask"]) > 0.1, "true boxes are among the proposals"
    changed = [not np.array_equal(a, b) for a, b in zip(leaves(after), leaves(state), strict=True)]
    assert np.mean(changed) > 0.95
    stats = after.model_state["batch_stats"]["backbone"]["stem_norm"]["norm"]["mean"]
    assert np.abs(stats).max() > 0
    again, _ = step(state, {}, batch)
    for a, b in zip(leaves(after), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_batch_statistics_over_two_devices_are_those_of_the_whole_batch():
    task, variables, batch = tiny_task()
    optimizer = optax.sgd(0.1)
    state = init_state(variables, optimizer, ema=False)
    whole, _ = jax.jit(make_train_step(task, optimizer, seed=0))(state, {}, batch)
    step = make_train_step(task, optimizer, seed=0, axis_name="data")
    mapped = jax.jit(jax.vmap(step, in_axes=(None, None, 0), axis_name="data"))
    shards = {name: value[:, None] for name, value in batch.items()}
    split, _ = mapped(state, {}, shards)
    ours, theirs = (flatten(dict(each.model_state)) for each in (whole, split))
    for path, value in ours.items():
        np.testing.assert_allclose(theirs[path][0], value, atol=1e-4, err_msg=path)
    ours, theirs = (flatten(each.params) for each in (whole, split))
    for path, value in ours.items():
        np.testing.assert_allclose(theirs[path][0], value, atol=2e-3, err_msg=path)


@pytest.mark.slow
def test_a_training_leaves_weights_that_detect(tmp_path):
    config = tiny_config(ema_decay=0.9)
    task = open_task(config)
    state = train(config, tmp_path, task, squares_data(config))
    variables, info = load_weights(tmp_path / "weights.safetensors", "mask_rcnn")
    assert (info.name, info.data_version) == ("mask-rcnn-tiny", "squares")
    assert info.model == dataclasses.replace(task.config, compute_dtype="float32")
    for a, b in zip(leaves(variables["params"]), leaves(state.ema_params), strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))
    scores = [row for row in read_rows(tmp_path) if row["kind"] == "validation"][-1]
    assert {"frame_j", "detections"} <= set(scores)


@pytest.mark.slow
def test_evaluation_and_variants_can_be_compiled():
    """Traced, not compiled."""
    for variants in ("tiny", "rgb,tiny"):
        config = tiny_config(variants)
        task, batch = open_task(config), example(config, 0, 2)
        variables = jax.eval_shape(lambda t=task: t.init_variables(0))
        sums, prediction = jax.eval_shape(task.evaluate, variables, batch)
        assert sums.keys() == {f"{s}_{part}" for s in task.scores for part in ("sum", "count")}
        assert prediction.shape == (4, 32, 64, 3)
        part = {**batch, "example_key": jax.random.split(jax.random.key(3), 2)}
        _, aux = jax.eval_shape(lambda v, b, t=task: t.loss(v, b, jnp.ones(())), variables, part)
        assert jax.tree.structure(aux.model_state) == jax.tree.structure(variables.model_state)
    assert task.step_flops(2) == 2 * task.step_flops(1) > 0


@pytest.mark.slow
def test_a_training_learns(tmp_path):
    config = tiny_config(steps=400, log_every=50, evaluate_every=400)
    config.model.stem, config.model.features, config.model.hidden = 8, 16, 32
    config.batch_size = 4
    task = open_task(config)
    train(config, tmp_path, task, squares_data(config))
    rows = read_rows(tmp_path)
    # The loss of the boxes grows at first, with the number of proposals that are objects.
    for name, factor in (("objectness", 0.3), ("score", 0.7), ("mask", 0.9)):
        values = [row[name] for row in rows if row["kind"] == "train"]
        assert values[-1] < factor * values[0], (name, values)
    scores = next(row for row in rows if row["kind"] == "validation")
    assert scores["frame_j"] > 0.4 and scores["detections"] > 1

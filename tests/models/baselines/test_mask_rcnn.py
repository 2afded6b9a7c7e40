"""Mask R-CNN: shapes, gradients, batch statistics, proposals and detections."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.baselines.mask_rcnn import (
    MaskRCNN,
    MaskRCNNConfig,
    detect,
    init_variables,
    model_input,
    parameter_shapes,
    propose,
)
from oclr_jax.models.baselines.resnet_fpn import STRIDES
from oclr_jax.models.parameters import flatten, param_count, unflatten
from oclr_jax.ops.boxes import encode_boxes, make_anchors, pairwise_box_iou
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights

TINY = MaskRCNNConfig(
    height=32, width=64, stem=4, blocks=(1, 1, 1, 1), features=8, hidden=8, candidates=12,
    proposals=10, detections=2, min_score=0.0, frames=4,
)  # fmt: skip


@functools.cache
def tiny_variables():
    return jax.jit(lambda: init_variables(TINY, 0))()


def tiny_flow(count: int = 2) -> jnp.ndarray:
    return jnp.asarray(np.random.default_rng(0).normal(0, 3, (count, 32, 64, 4)), jnp.float32)


@pytest.mark.parametrize("change", [{}, {"inputs": "rgb+flow"}, {"compute_dtype": "bfloat16"}])
def test_shapes_and_types(change):
    config = dataclasses.replace(TINY, **change)
    variables = jax.eval_shape(lambda: init_variables(config, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    frames = jnp.zeros((2, 32, 64, 3), jnp.uint8)
    inputs = jax.eval_shape(lambda f: model_input(config, f, frames), tiny_flow())
    assert inputs.shape == (2, 32, 64, 7 if change.get("inputs") else 4)
    found = jax.eval_shape(lambda v, x: detect(config, v, x), variables, inputs)
    assert found.boxes.shape == (2, 2, 4) and found.scores.shape == (2, 2)
    assert found.masks.shape == (2, 32, 64, 2) and found.masks.dtype == np.float32
    levels = jax.eval_shape(
        lambda v, x: MaskRCNN(config).apply(v, x, method="pyramid"), variables, inputs
    )
    assert [level.shape[1:3] for level in levels] == [(8, 16), (4, 8), (2, 4), (1, 2), (1, 1)]


def test_the_default_is_resnet_50():
    variables = jax.eval_shape(lambda: init_variables(MaskRCNNConfig(), 0))
    backbone = param_count(variables["params"]["backbone"])
    # 25,557,032 of the classifier, less its last layer; the first convolution sees 4 channels.
    assert backbone == 25_557_032 - 2_049_000 + 7 * 7 * 64
    assert parameter_shapes(TINY)["batch_stats/backbone/stem_norm/norm/mean"] == (4,)


def outputs(variables, inputs, train=False):
    """All that the losses see, with new batch statistics."""
    model = MaskRCNN(TINY)
    levels, state = model.apply(
        variables, inputs, train=train, mutable=["batch_stats"], method="pyramid"
    )
    params, boxes = {"params": variables["params"]}, jnp.array([[[4.0, 4, 28, 28]]] * len(inputs))
    parts = [
        model.apply(params, levels, method="score_anchors"),
        model.apply(params, levels, boxes, method="classify"),
        model.apply(params, levels, boxes, method="mask_logits"),
    ]
    return parts, state


def test_a_gradient_reaches_every_parameter():
    variables, inputs = tiny_variables(), model_input(TINY, tiny_flow())

    def weighted_sum(params):
        parts, _ = outputs({**variables, "params": params}, inputs, train=True)
        return sum(
            jnp.vdot(leaf, jax.random.normal(jax.random.key(i), leaf.shape))
            for i, leaf in enumerate(jax.tree.leaves(parts))
        )

    # Backbone parameters that only coarse levels see get theirs through the proposals.
    gradients = flatten(jax.jit(jax.grad(weighted_sum))(variables["params"]))
    largest = {path: np.abs(leaf).max() for path, leaf in gradients.items()}
    assert all(np.isfinite(value) for value in largest.values())
    assert {path for path, value in largest.items() if value < 1e-6} == set()


@pytest.mark.slow
def test_batch_statistics_are_used_in_inference_and_updated_in_training():
    variables, inputs = tiny_variables(), model_input(TINY, tiny_flow(3))
    _, kept = outputs(variables, inputs)
    _, moved = outputs(variables, inputs, train=True)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, kept, {"batch_stats": variables["batch_stats"]})
    )
    stem = moved["batch_stats"]["backbone"]["stem_norm"]["norm"]
    assert np.abs(stem["mean"]).max() > 1e-3
    # Inference does not depend on the other frames of a batch.
    run = jax.jit(lambda v, x: detect(TINY, v, x))
    together, alone = run(variables, inputs), run(variables, jnp.stack([inputs[1]] * 3))
    np.testing.assert_allclose(together.masks[1], alone.masks[0], atol=1e-5)


def test_inputs_do_not_depend_on_pans_and_hardly_on_speed():
    flow = tiny_flow()
    base = model_input(TINY, flow)
    np.testing.assert_allclose(model_input(TINY, flow + 7), base, atol=1e-4)
    np.testing.assert_allclose(model_input(TINY, 4 * flow), base, atol=0.5)
    assert np.abs(model_input(TINY, 1e-3 * flow)).max() < 0.05, "noise stays noise"


def test_proposals_are_the_best_anchors_without_their_doubles():
    anchors = [jnp.asarray(level) for level in make_anchors(32, 64, STRIDES)]
    logits = [np.full((1, len(level)), -9.0, np.float32) for level in anchors]
    deltas = [np.zeros((1, len(level), 4), np.float32) for level in anchors]
    wanted = jnp.array([10.0, 8, 22, 24])
    for place, score in ((40, 3.0), (41, 2.0), (60, 1.0)):
        box = wanted if place < 60 else jnp.array([40.0, 10, 50, 20])
        logits[0][0, place] = score
        deltas[0][0, place] = encode_boxes(box, anchors[0][place])
    found = jax.jit(lambda *of: propose(TINY, (32, 64), *of))(logits, deltas)
    assert found.boxes.shape == (1, 10, 4)
    np.testing.assert_allclose(found.boxes[0, 0], wanted, atol=1e-3)
    np.testing.assert_allclose(found.boxes[0, 1], [40, 10, 50, 20], atol=1e-3)
    inside = found.boxes[0][found.valid[0]]
    assert (inside >= 0).all() and (inside[:, 2] <= 64).all() and (inside[:, 3] <= 32).all()
    iou = np.asarray(pairwise_box_iou(inside, inside)) - np.eye(len(inside))
    assert iou[0].max() <= 0.7


@pytest.mark.slow
def test_detections_are_few_and_sure():
    inputs = model_input(TINY, tiny_flow())
    found = detect(TINY, tiny_variables(), inputs)
    scores = np.asarray(found.scores)
    assert (np.diff(scores) <= 0).all() and (scores > 0).all()
    strict = dataclasses.replace(TINY, min_score=0.99)
    none = detect(strict, tiny_variables(), inputs)
    assert not np.asarray(none.scores).any() and not np.asarray(none.masks).any()


def test_weights_with_statistics_survive_a_file(tmp_path):
    rng, shapes = np.random.default_rng(0), parameter_shapes(TINY)
    flat = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    info = WeightsInfo(TINY, "tiny", flow={"estimator": "dis"}, data_version="none")
    save_weights(tmp_path / "w.safetensors", unflatten(flat), info, dtype="float32")
    variables, read = load_weights(tmp_path / "w.safetensors", "mask_rcnn")
    assert read.model == TINY
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, unflatten(flat)))


def test_wrong_settings_are_refused():
    assert MaskRCNNConfig.from_dict(TINY.to_dict()) == TINY
    for change in (
        *({"inputs": "rgb"}, {"blocks": (1, 1)}, {"gaps": ()}, {"min_score": 1.0}, {"stem": 0}),
        *({"detections": 11}, {"height": 40}, {"compute_dtype": "int8"}, {"colour": 1}),
    ):
        with pytest.raises(ValueError):
            MaskRCNNConfig.from_dict({**TINY.to_dict(), **change})

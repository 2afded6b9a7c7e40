"""The mask selector: shapes, gradients, parity with the published program, padding, variants."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.backbones import OWN, own_backbone
from oclr_jax.models.parameters import flatten, param_count
from oclr_jax.models.selector import (
    Selector,
    SelectorConfig,
    init_params,
    mask_quality,
)
from oclr_jax.torch_import.names_selector import import_selector

TINY = SelectorConfig(
    height=16, width=32, channels=(4, 4, 8), layers=1, heads=2, feedforward=12, backbone=OWN,
    feature_channels=6,
)  # fmt: skip


def tiny_inputs(frames: int = 3, objects: int = 2, batch: int = 1, height: int = 16):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, frames, height, 32, 3))
    masks = rng.random((batch, frames, height, 32, objects)) > 0.7
    features = rng.normal(size=(batch, frames, height // 4, 8, 6))
    return tuple(jnp.asarray(x, jnp.float32) for x in (images, masks, features))


@functools.cache
def tiny_params(predicts: str = "error_map"):
    return jax.jit(lambda: init_params(dataclasses.replace(TINY, predicts=predicts), 0))()


def run(config: SelectorConfig, *inputs, seed: int | None = None):
    rngs = {} if seed is None else {"dropout": jax.random.key(seed)}
    apply = jax.jit(Selector(config).apply, static_argnames="train")
    return apply({"params": tiny_params()}, *inputs, train=seed is not None, rngs=rngs)


@pytest.mark.parametrize(
    "change", [{}, {"compute_dtype": "bfloat16"}, {"predicts": "score"}, {"layers": 2}]
)
def test_shapes_and_types_for_any_frames_and_objects(change):
    config = dataclasses.replace(TINY, **change)
    params = jax.eval_shape(lambda: init_params(config, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    for frames, objects in ((1, 1), (5, 4)):
        inputs = tiny_inputs(frames, objects, batch=2)
        output = jax.eval_shape(Selector(config).apply, {"params": params}, *inputs)
        assert output.quality.shape == (2, frames, objects)
        assert output.quality.dtype == np.float32
        if config.predicts == "score":
            assert output.error_logits is None
        else:
            assert output.error_logits.shape == (2, frames, 16, 32, objects, 3)


def test_inputs_that_do_not_fit_are_rejected():
    images, masks, features = tiny_inputs()
    with pytest.raises(ValueError, match="14x32"):
        run(TINY, images[:, :, :14], masks[:, :, :14], features)
    with pytest.raises(ValueError, match="grid of"):
        run(TINY, images, masks, features[:, :, :3])


def test_parameter_count():
    params = jax.eval_shape(lambda: init_params(SelectorConfig(), 0))
    assert param_count(params) == 3_301_475
    own = jax.eval_shape(lambda: init_params(SelectorConfig(backbone=OWN), 0))
    assert param_count(own["backbone"]) <= 3_000_000


@pytest.mark.parametrize("predicts", ["error_map", pytest.param("score", marks=pytest.mark.slow)])
def test_a_gradient_reaches_every_parameter(predicts):
    config = dataclasses.replace(TINY, predicts=predicts)
    images, masks, _ = tiny_inputs()

    def weighted_sum(params):
        features = own_backbone(config).apply({"params": params["backbone"]}, images[0])[None]
        output = Selector(config).apply(
            *({"params": params}, images, masks, features),
            train=True,
            rngs={"dropout": jax.random.key(1)},
        )
        return sum(
            jnp.vdot(leaf, jax.random.normal(jax.random.key(i), leaf.shape))
            for i, leaf in enumerate(jax.tree.leaves(output))
        )

    gradients = flatten(jax.jit(jax.grad(weighted_sum))(tiny_params(predicts)))
    largest = {path: np.abs(leaf).max() for path, leaf in gradients.items()}
    assert all(np.isfinite(value) for value in largest.values())
    unreached = {path for path, value in largest.items() if value < 1e-6}
    # The softmax is invariant to a common offset of all keys, so this gradient is exactly 0.
    assert {path for path in unreached if not path.endswith("key/bias")} == set()


def test_padded_frames_change_nothing():
    inputs = tiny_inputs(frames=3)
    exact = run(TINY, *inputs)
    padded = [jnp.pad(x, ((0, 0), (0, 4), *[(0, 0)] * (x.ndim - 2))) + 0.0 for x in inputs]
    padded[0] = padded[0].at[:, 3:].set(5.0)
    found = run(TINY, *padded, jnp.array([3]))
    np.testing.assert_allclose(found.quality[:, :3], exact.quality, atol=1e-4)
    np.testing.assert_allclose(found.error_logits[:, :3], exact.error_logits, atol=1e-4)
    # Also for a single frame, in which a frame sees nothing but itself.
    one = run(TINY, *(x[:, :1] for x in inputs))
    found = run(TINY, *padded, jnp.array([1]))
    np.testing.assert_allclose(found.error_logits[:, :1], one.error_logits, atol=1e-4)


def test_objects_and_clips_are_independent():
    images, masks, features = tiny_inputs(objects=2, batch=2)
    together = run(TINY, images, masks, features)
    alone = run(TINY, images[1:], masks[1:, ..., 1:], features[1:])
    np.testing.assert_allclose(together.quality[1:, :, 1:], alone.quality, atol=1e-4)


def test_dropout_is_off_in_inference():
    inputs = tiny_inputs()
    first, second = (run(TINY, *inputs, seed=seed).error_logits for seed in (1, 2))
    assert np.abs(first - second).max() > 1e-4
    assert np.abs(run(TINY, *inputs).error_logits - first).max() > 1e-4


def test_bfloat16_stays_near_float32():
    exact = run(TINY, *tiny_inputs()).error_logits
    coarse = run(dataclasses.replace(TINY, compute_dtype="bfloat16"), *tiny_inputs()).error_logits
    error = np.sqrt(np.mean((exact - coarse) ** 2))
    assert 0 < error < 0.1 * np.std(exact)


def test_an_empty_mask_has_a_finite_quality():
    masks = jnp.zeros((1, 1, 4, 4, 1))
    quality = mask_quality(jnp.full((1, 1, 4, 4, 1, 3), 1 / 3), masks)
    np.testing.assert_allclose(quality, [[[-16 * 2 / 3]]], rtol=1e-6)


def test_config_survives_json_and_rejects_unknown_fields():
    assert SelectorConfig.from_dict(TINY.to_dict()) == TINY
    for change in (
        {"heads": "2"},
        {"colour": 1},
        {"backbone": "resnet"},
        {"predicts": "iou"},
        {"height": 18},
        {"channels": 4},
        {"layers": 0},
        {"dropout": 1.0},
        {"compute_dtype": "int8"},
    ):
        with pytest.raises(ValueError):
            SelectorConfig.from_dict({**TINY.to_dict(), **change})


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "reference" / "golden" / "selector.npz") as file:
        return dict(file)


def test_parity_with_the_published_program(golden):
    params, config = import_selector(
        {name[2:]: array for name, array in golden.items() if name.startswith("w/")}
    )
    assert config == SelectorConfig()
    images = jnp.asarray(np.moveaxis(golden["in_rgb"], 1, -1))[None]
    masks = jnp.asarray(np.moveaxis(golden["in_masks"], 2, -1), jnp.float32)
    features = jnp.asarray(golden["in_feats"]).reshape(1, 4, *config.grid, -1)
    output = jax.jit(Selector(config).apply)({"params": params}, images, masks, features)
    error_map = jax.nn.softmax(output.error_logits)[:, :, ::4, ::4]
    expected = np.moveaxis(golden["out_errormap_stride4"], (2, 3), (4, 5))
    np.testing.assert_allclose(error_map, expected, atol=2e-4)
    np.testing.assert_allclose(output.quality, golden["out_scores_presoftmax"], rtol=1e-4)
    np.testing.assert_allclose(
        jax.nn.softmax(output.quality, axis=1), golden["out_scores"], atol=1e-4
    )

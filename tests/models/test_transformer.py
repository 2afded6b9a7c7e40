"""Building blocks of the transformer and the U-Net against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.layers.norms import instance_norm
from oclr_jax.models.layers.positions import coordinate_grid
from oclr_jax.models.oclr import transformer
from oclr_jax.models.oclr.transformer import (
    MultiHeadAttention,
    UnbiasedLayerNorm,
    attend,
    attend_in_parts,
    dropout_mask,
)
from oclr_jax.models.oclr.unet import Upsample, max_pool


def rand(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


def test_one_frame_attends_to_a_plain_mean():
    query, key, value = rand(1, 6, 4), rand(1, 6, 4), rand(2, 6, 4)[:1]
    out = attend(query, key, value, same_frame=jnp.ones((6, 6), bool))
    np.testing.assert_allclose(out, np.broadcast_to(value.mean(1), out.shape[1:])[None], atol=1e-6)


@pytest.mark.parametrize("scores", [1, 12, 100])  # at a time: one query, two, all
def test_tokens_of_the_same_frame_are_masked(monkeypatch, scores):
    monkeypatch.setattr(transformer, "SCORES_AT_A_TIME", scores)
    query, key, value = rand(1, 1, 6, 4), rand(1, 1, 6, 4), rand(1, 2, 6, 4)[:, :1]
    out = attend_in_parts(query, key, value, None, 0.0, frames=3)
    other = value.at[:, :, 2:4].add(100.0)  # the second of three frames of two tokens
    moved = attend_in_parts(query, key, other, None, 0.0, frames=3) - out
    moved = np.abs(moved).max(axis=(0, 1, 3))
    assert (moved[2:4] == 0).all()
    assert (moved[[0, 1, 4, 5]] > 1).all()


@pytest.mark.parametrize("scores", [7, 17, 40])  # at a time; padded parts among them
def test_attention_in_parts_has_the_values_and_gradients_of_the_whole(monkeypatch, scores):
    query, key, value = rand(2, 1, 5, 4), rand(2, 1, 7, 4), rand(2, 1, 7, 4) + 1.0
    valid = jnp.arange(7)[None] < 6

    def total(*arrays):
        return jnp.square(attend_in_parts(*arrays, None, 0.0, None, valid)).sum()

    def expected(*arrays):
        return jnp.square(jax.vmap(lambda q, k, v: attend(q, k, v, valid=valid))(*arrays)).sum()

    monkeypatch.setattr(transformer, "SCORES_AT_A_TIME", scores)
    for ours, theirs in zip(
        jax.jit(jax.grad(total, (0, 1, 2)))(query, key, value),
        jax.jit(jax.grad(expected, (0, 1, 2)))(query, key, value),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_every_part_drops_other_weights(monkeypatch):
    monkeypatch.setattr(transformer, "SCORES_AT_A_TIME", 8)
    query, key = jnp.zeros((1, 1, 20, 1)), jnp.zeros((1, 1, 8, 1))
    value = jnp.asarray(2.0 ** np.arange(8)).reshape(key.shape)  # every subset has another sum
    out = attend_in_parts(query, key, value, jax.random.key(0), 0.5, None)
    assert len(np.unique(out)) > 15


def test_attention_against_its_definition():
    tokens, memory = rand(2, 5, 8), rand(2, 7, 8)
    module = MultiHeadAttention(heads=2, dropout=0.0, dtype=np.dtype("float32"))
    variables = module.init(jax.random.key(0), tokens, memory)
    p = {
        k: (np.asarray(v["kernel"]), np.asarray(v["bias"])) for k, v in variables["params"].items()
    }
    q, k, v = (
        (x @ p[name][0] + p[name][1]).reshape(*x.shape[:2], 2, 4)
        for name, x in (("query", tokens), ("key", memory), ("value", memory))
    )
    scores = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / 2.0)
    weights = scores / scores.sum(-1, keepdims=True)
    expected = np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(2, 5, 8)
    expected = expected @ p["output"][0] + p["output"][1]
    np.testing.assert_allclose(module.apply(variables, tokens, memory), expected, atol=1e-5)


@pytest.mark.parametrize("columns", [64, 65])
def test_dropout_mask_has_the_rate_and_no_pattern(columns):
    mask = np.asarray(dropout_mask(jax.random.key(0), 0.1, (2, 200, columns)))
    assert mask.shape == (2, 200, columns)
    assert abs(mask.mean() - 0.1) < 0.01
    # Both halves of each random word are used; they must be independent.
    left, right = mask[..., : columns // 2], mask[..., -(columns // 2) :]
    assert abs((left & right).mean() - 0.01) < 0.005


def test_norm_uses_the_unbiased_deviation_plus_epsilon():
    x = 1e-4 * rand(3, 4)
    variables = UnbiasedLayerNorm().init(jax.random.key(0), x)
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / (x.std(-1, ddof=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(UnbiasedLayerNorm().apply(variables, x), expected, atol=1e-5)


def test_instance_norm_has_float32_statistics_and_keeps_the_type():
    x = 300.0 + rand(2, 8, 8, 3)
    expected = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x), expected, atol=1e-3)
    assert instance_norm(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def test_instance_norm_keeps_its_precision_where_the_first_row_is_far_from_the_mean():
    x = rand(2, 8, 8, 3).at[:, 0].set(1e4)
    wide = np.asarray(x, np.float64)
    expected = wide - wide.mean((1, 2), keepdims=True)
    expected /= np.sqrt(wide.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(instance_norm(x), expected, rtol=1e-5)


def test_the_result_of_instance_norm_does_not_depend_on_the_guess_of_the_mean():
    x = 300.0 + rand(2, 8, 8, 3)
    shift = x.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(instance_norm(x, shift + 3.0), instance_norm(x), atol=1e-4)
    slope = jax.grad(lambda shift: (rand(1, 8, 8, 3) * instance_norm(x, shift)).sum())(shift)
    np.testing.assert_array_equal(slope, 0)


def test_instance_norm_has_the_gradient_of_its_definition():
    x, weight = 3.0 + rand(2, 8, 8, 3), rand(1, 8, 8, 3)

    def defined(x):
        mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        return (weight * (x - mean) / jnp.sqrt(variance + 1e-5)).sum()

    ours = jax.grad(lambda x: (weight * instance_norm(x)).sum())(x)
    np.testing.assert_allclose(ours, jax.grad(defined)(x), atol=1e-5)


def test_pooling_and_upsampling_work_on_2x2_blocks():
    x = rand(1, 4, 6, 2)
    pooled = max_pool(x)
    assert pooled[0, 1, 2, 0] == x[0, 2:4, 4:6, 0].max()
    module = Upsample(3, np.dtype("float32"))
    variables = module.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])
    out = module.apply(variables, x)
    assert out.shape == (1, 8, 12, 3)
    np.testing.assert_allclose(out[0, 5, 6], x[0, 2, 3] @ kernel[:, 1, 0], atol=1e-5)


def test_coordinates_run_from_minus_one_to_one_in_the_order_of_the_axes():
    grid = coordinate_grid((2, 3, 1))
    assert grid.shape == (2, 3, 1, 3)
    np.testing.assert_array_equal(grid[1, 2, 0], [1, 1, -1])
    np.testing.assert_array_equal(grid[0, 1, 0], [-1, 0, -1])

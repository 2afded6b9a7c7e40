"""Composition of layers: hard against painting, soft against the sum over all orders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops import layering


def painted(amodal, order):
    """Paints the layers over each other from back to front; returns what remains of each."""
    layers = amodal.shape[-1]
    canvas = np.full(amodal.shape[:-1], -1)
    for layer in sorted(range(layers), key=lambda i: (-order[i], -i)):
        canvas[amodal[..., layer]] = layer
    return canvas[..., None] == np.arange(layers)


@pytest.mark.parametrize("order", [[0.5, -1.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
def test_hard_modal_equals_painting(order):
    amodal = np.random.default_rng(0).random((1, 2, 6, 7, 4)) > 0.5
    ours = layering.hard_modal(jnp.asarray(amodal), jnp.array([[order]]))
    np.testing.assert_array_equal(ours, painted(amodal, order))


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_soft_modal_is_the_sum_over_all_orders(layers):
    rng = np.random.default_rng(layers)
    amodal, order = rng.random((2, 3, 4, 5, layers)), rng.normal(size=(2, 3, layers))
    expected, norm = np.zeros_like(amodal), np.zeros((2, 3, 1, 1, 1))
    for front_to_back in itertools.permutations(range(layers)):
        weight = np.ones((2, 3))
        for i, j in itertools.combinations(front_to_back, 2):
            weight /= 1 + np.exp(order[..., i] - order[..., j])
        seen = np.ones((2, 3, 4, 5))
        for layer in front_to_back:
            visible = amodal[..., layer] * seen
            expected[..., layer] += weight[:, :, None, None] * visible
            seen = seen * (1 - amodal[..., layer])
        norm += weight[:, :, None, None, None]
    inputs = jnp.asarray(amodal, jnp.float32), jnp.asarray(order, jnp.float32)
    ours = jax.jit(layering.soft_modal)(*inputs)
    np.testing.assert_allclose(ours, expected / norm, rtol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_overlap_order_counts_the_larger_logits_of_each_overlap(layers):
    rng = np.random.default_rng(layers)
    logits = rng.normal(0.5, 1.0, (2, 3, 4, 5, layers)).astype(np.float32)
    logits[1, ..., 0] = -1.0  # a layer that is nowhere
    expected = np.zeros((2, layers))
    for clip, i, j in itertools.product(range(2), range(layers), range(layers)):
        one, other = logits[clip, ..., i], logits[clip, ..., j]
        shared = (one > 0) & (other > 0)
        if i != j and shared.any():
            expected[clip, i] -= np.mean(one[shared] > other[shared])
            expected[clip, i] += np.mean(one[shared] < other[shared])
    ours = jax.jit(layering.overlap_order)(jnp.asarray(logits))
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ours[1, 0] == 0


def test_overlap_order_puts_the_more_confident_layer_in_front():
    logits = np.full((1, 1, 1, 6, 2), -3.0, np.float32)
    logits[..., :4, 0] = 1.0
    logits[..., 2:, 1] = 2.0
    logits = jnp.asarray(logits)
    modal = layering.hard_modal(logits > 0, layering.overlap_order(logits)[:, None])
    assert modal[0, 0, 0].T.tolist() == [[True, True] + [False] * 4, [False] * 2 + [True] * 4]


def test_soft_composition_with_a_certain_order_is_hard():
    amodal = np.random.default_rng(1).random((1, 1, 5, 5, 3)) > 0.4
    order = jnp.array([[[100.0, -100.0, 0.0]]])
    soft = jax.jit(layering.soft_modal)(jnp.asarray(amodal, jnp.float32), order)
    hard = layering.hard_modal(jnp.asarray(amodal), order)
    np.testing.assert_allclose(soft, hard, atol=1e-6)

"""Matching against scipy, and IoU against counting pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from oclr_jax.ops import matching


@pytest.mark.parametrize("layers", range(1, 8))
def test_match_layers_is_exact(layers):
    cost = np.random.default_rng(layers).normal(size=(20, layers, layers)).astype(np.float32)
    match = jax.jit(matching.match_layers)(jnp.asarray(cost))
    for clip, ours in zip(cost, np.asarray(match), strict=True):
        predictions, truths = linear_sum_assignment(clip)
        theirs = np.empty(layers, int)
        theirs[truths] = predictions
        np.testing.assert_array_equal(ours, theirs)


def test_ties_go_to_the_first_assignment():
    np.testing.assert_array_equal(matching.match_layers(jnp.zeros((2, 3, 3))), [[0, 1, 2]] * 2)


def test_non_finite_costs_terminate():
    match = jax.jit(matching.match_layers)(jnp.full((1, 3, 3), jnp.nan))
    assert sorted(match[0].tolist()) == [0, 1, 2]


def test_too_many_layers_are_rejected():
    with pytest.raises(ValueError, match="K = 9"):
        matching.match_layers(jnp.zeros((1, 9, 9)))


def test_invert():
    match = jnp.array([[2, 0, 1], [1, 0, 2]])
    np.testing.assert_array_equal(matching.invert(match), [[1, 2, 0], [1, 0, 2]])


def test_take_layers_uses_the_index_of_each_clip():
    layers = jnp.arange(2 * 4 * 3).reshape(2, 4, 3)
    taken = matching.take_layers(layers, jnp.array([[2, 0, 1], [0, 1, 2]]))
    np.testing.assert_array_equal(taken[0], layers[0][:, [2, 0, 1]])
    np.testing.assert_array_equal(taken[1], layers[1])


def test_pairwise_bce_against_float64():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (2, 3, 6, 8, 4)).astype(np.float32)
    amodal = rng.integers(0, 2, (2, 3, 6, 8, 4)).astype(np.uint8)
    ours = matching.pairwise_bce(jnp.asarray(logits), jnp.asarray(amodal))
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))[..., :, None]
    truth = amodal[..., None, :] > 0
    theirs = -np.log(np.where(truth, probability, 1 - probability)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_matched_iou_matches_by_the_time_mean_and_marks_present_layers():
    truth = np.zeros((1, 2, 4, 4, 2), bool)
    truth[0, :, :2, :, 0] = True  # 8 pixels in both frames
    truth[0, 0, 3, :, 1] = True  # 4 pixels in the first frame only
    masks = truth[..., ::-1].copy()
    masks[0, 1, 0, :, 1] = False  # half of the first layer lost in the second frame
    iou, there = matching.matched_iou(jnp.asarray(masks), jnp.asarray(truth))
    np.testing.assert_allclose(iou, [[[1, 1], [0.5, 1]]])
    np.testing.assert_array_equal(there, [[[True, True], [True, False]]])

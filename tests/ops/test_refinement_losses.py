"""Losses of the selector and corrector, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from oclr_jax.ops import refinement_losses
from oclr_jax.ops.losses import boundary_loss
from oclr_jax.ops.refinement_losses import (
    CorrectorLossWeights,
    error_map_loss,
    true_error_map,
)

# Compiled as a whole, which takes less time than to compile every operation alone.
corrector_loss = jax.jit(refinement_losses.corrector_loss, static_argnames="weights")


def test_error_maps():
    masks, truth = jnp.array([[[[1], [1], [0], [0]]]]) > 0, jnp.array([[[[1], [0], [1], [0]]]]) > 0
    found = true_error_map(masks, truth)[0, 0, :, 0].astype(int)
    # False positive, correct, false negative.
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_the_error_map_loss_is_the_cross_entropy_of_each_channel():
    logits = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2, 3))
    truth = np.random.default_rng(1).random(logits.shape) > 0.5
    present = np.array([[True, False], [True, True]])
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    entropy = -np.where(truth, np.log(p), np.log(1 - p)).mean(axis=(1, 2, 3, 5))
    found = error_map_loss(
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(truth),
        jnp.asarray(present),
        jnp.float32(3),
    )
    np.testing.assert_allclose(found, entropy[present].mean(), rtol=1e-5)


def test_a_confident_error_map_has_a_finite_loss_and_gradient():
    logits = jnp.array([300.0, 0.0, -300.0]).reshape(1, 1, 1, 1, 1, 3)
    truth = jnp.array([False, False, True]).reshape(logits.shape)

    def loss(logits):
        return error_map_loss(logits, truth, jnp.ones((1, 1), bool), jnp.float32(1))

    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and value > 100
    assert np.isfinite(gradient).all()


def test_the_corrector_loss_is_the_weighted_sum_of_its_terms():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(1, 2, 16, 16, 2)), jnp.float32)
    truth = jnp.zeros((1, 2, 16, 16, 2), jnp.uint8).at[:, :, 4:12, 4:12, 0].set(1)
    features, guess = (jnp.asarray(rng.normal(size=(1, 2, 4, 4, 6)), jnp.float32) for _ in "ab")
    alphas = jax.nn.softmax(jnp.asarray(rng.normal(size=(1, 2, 4, 4, 5)), jnp.float32))
    weights = CorrectorLossWeights(boundary=0.5, reconstruction=0.25, alpha=2.0)
    total, terms = corrector_loss(logits, truth, guess, features, alphas, weights=weights)
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    bce = -np.where(truth, np.log(p), np.log(1 - p)).mean()
    np.testing.assert_allclose(terms["bce"], bce, rtol=1e-5)
    np.testing.assert_allclose(terms["boundary"], boundary_loss(logits, truth), rtol=1e-6)
    np.testing.assert_allclose(
        terms["reconstruction"], np.square(guess - features).mean(), rtol=1e-5
    )
    share = np.zeros((4, 4, 2))
    share[1:3, 1:3, 0] = 1
    foreground = np.asarray(alphas[..., :2])
    alpha = -(share * np.log(foreground) + (1 - share) * np.log(1 - foreground)).mean()
    np.testing.assert_allclose(terms["alpha"], alpha, rtol=1e-5)
    expected = bce + 0.5 * terms["boundary"] + 0.25 * terms["reconstruction"] + 2 * alpha
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    dense, terms = corrector_loss(logits, truth, None, features, None, weights=weights)
    assert terms.keys() == {"bce", "boundary"}
    np.testing.assert_allclose(dense, bce + 0.5 * terms["boundary"], rtol=1e-5)


def test_attention_maps_are_held_to_the_objects():
    truth = jnp.zeros((1, 1, 8, 8, 2), jnp.uint8).at[:, :, :4, :4, 0].set(1)
    logits, maps = jnp.zeros((1, 1, 8, 8, 2)), jnp.full((1, 1, 2, 2, 2), -20.0)
    features = jnp.zeros((1, 1, 2, 2, 3))

    def loss(maps, weight):
        weights = CorrectorLossWeights(boundary=0.0, maps=weight)
        return corrector_loss(logits, truth, None, features, None, weights, map_logits=maps)

    total, terms = loss(maps.at[0, 0, 0, 0, 0].set(20.0), 0.5)
    assert terms["maps"] < 1e-6
    total, terms = loss(maps, 0.5)
    np.testing.assert_allclose(terms["maps"], 20 / 8, rtol=1e-5)  # one of eight cells is wrong
    np.testing.assert_allclose(total, terms["bce"] + 0.5 * terms["maps"], rtol=1e-5)
    assert "maps" not in loss(maps, 0.0)[1]


def test_the_features_get_no_gradient():
    truth = jnp.zeros((1, 1, 8, 8, 1), jnp.uint8)

    def loss(features):
        alphas = jnp.full((1, 1, 2, 2, 2), 0.5)
        zeros = jnp.zeros((1, 1, 8, 8, 1))
        weights = CorrectorLossWeights()
        guess = features * 0 + 1
        return corrector_loss(zeros, truth, guess, features, alphas, weights=weights)[0]

    gradient = jax.jit(jax.grad(loss))(jnp.ones((1, 1, 2, 2, 3)) * 3)
    np.testing.assert_array_equal(gradient, 0)


def test_only_known_frames_of_an_object_count():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(1, 3, 8, 8, 2)), jnp.float32)
    truth = jnp.asarray(rng.random(logits.shape) > 0.5, jnp.uint8)
    known = np.zeros((1, 3, 2), bool)
    known[0, 0, 1] = known[0, 2, 0] = True
    features = jnp.zeros((1, 3, 2, 2, 4))
    alphas = jax.nn.softmax(jnp.asarray(rng.normal(size=(1, 3, 2, 2, 3)), jnp.float32))
    weights = CorrectorLossWeights(boundary=0.0)
    rest = features, features, alphas
    options = {"weights": weights, "known": jnp.asarray(known)}
    _, terms = corrector_loss(logits, truth, *rest, **options)
    each = []
    for t, k in ((0, 1), (2, 0)):
        one = [x[:, t : t + 1, ..., k : k + 1] for x in (logits, truth)]
        inputs = *one, None, features[:, :1], None
        each.append(corrector_loss(*inputs, weights=weights)[1]["bce"])
    np.testing.assert_allclose(terms["bce"], np.mean(each), rtol=1e-5)
    other = jnp.where(jnp.asarray(known)[:, :, None, None], truth, 1 - truth)
    changed = corrector_loss(logits, other, *rest, **options)[1]
    np.testing.assert_allclose(changed["alpha"], terms["alpha"], rtol=1e-6)

"""Losses against float64 references written from the paper, and for extreme input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from oclr_jax.errors import UserError
from oclr_jax.ops import losses

SHAPE = (2, 3, 20, 24, 3)


@pytest.fixture
def case():
    """Overlapping rectangles, front to back; the second clip has an empty last layer."""
    rng = np.random.default_rng(0)
    amodal = np.zeros(SHAPE, np.uint8)
    for clip, t, layer in itertools.product(range(2), range(3), range(3)):
        if (clip, layer) != (1, 2):
            top, left = 2 + 3 * layer + t, 3 + 4 * layer
            amodal[clip, t, top : top + 8, left : left + 9, layer] = 1
    modal = amodal.copy()
    modal[..., 1] &= 1 - amodal[..., 0]
    modal[..., 2] &= 1 - (amodal[..., 0] | amodal[..., 1])
    logits = rng.normal(0, 2, SHAPE).astype(np.float32)
    order = rng.normal(size=(2, 3)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(order), jnp.asarray(amodal), jnp.asarray(modal)


def entropy64(logits, targets):
    probability = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    return -np.log(np.where(np.asarray(targets) > 0, probability, 1 - probability))


def band64(masks):
    """With scipy. Outside is background for the dilation and foreground for the erosion."""
    element = np.zeros((7, 7), bool)
    element[::3, ::3] = True
    band = np.zeros(masks.shape, bool)
    for clip, t, layer in np.ndindex(*masks.shape[:2], masks.shape[-1]):
        mask = np.asarray(masks[clip, t, :, :, layer]) > 0
        dilated = ndimage.binary_dilation(mask, element, border_value=0)
        eroded = ndimage.binary_erosion(mask, element, border_value=1)
        band[clip, t, :, :, layer] = dilated & ~eroded
    return band


def test_amodal_and_boundary_against_float64(case):
    logits, _, amodal, _ = case
    entropy, band = entropy64(logits, amodal), band64(amodal)
    np.testing.assert_array_equal(losses.boundary_band(amodal), band)
    np.testing.assert_allclose(losses.amodal_loss(logits, amodal), entropy.mean(), rtol=1e-6)
    expected = (entropy * band).sum() / band.sum()
    np.testing.assert_allclose(losses.boundary_loss(logits, amodal), expected, rtol=1e-6)


def test_mean_loss_of_parts_is_the_loss_of_the_batch(case):
    logits, order, amodal, modal = case
    amodal = amodal.at[1, :, :, :, 1].set(0)  # so the clips' bands differ much in size
    weights = losses.LossWeights(modal=0.1)
    band = losses.boundary_band(amodal)
    assert band[0].sum() > 1.3 * band[1].sum()
    pixels = band.sum() / 2.0

    def whole(logits):
        return losses.layered_loss(logits, order, amodal, modal, weights)

    def parts(logits):
        cut = [
            losses.layered_loss(
                *(x[clip, None] for x in (logits, order, amodal, modal)),
                weights,
                band_pixels=pixels,
            )
            for clip in range(2)
        ]
        return jax.tree.map(lambda a, b: (a + b) / 2, *cut)

    (one, terms), grads = jax.jit(jax.value_and_grad(whole, has_aux=True))(logits)
    (two, their_terms), their_grads = jax.jit(jax.value_and_grad(parts, has_aux=True))(logits)
    np.testing.assert_allclose(two, one, rtol=1e-6)
    for name, value in terms.items():
        np.testing.assert_allclose(their_terms[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(their_grads, grads, rtol=1e-5, atol=1e-9)


def test_order_against_float64(case):
    _, order, amodal, _ = case
    terms = []
    for clip, (i, j) in itertools.product(range(2), itertools.combinations(range(3), 2)):
        overlap = np.any(np.asarray(amodal[clip, ..., i] & amodal[clip, ..., j]))
        gap = float(order[clip, j]) - float(order[clip, i])
        terms.append(np.log1p(np.exp(-gap)) if overlap else 0.0)
    np.testing.assert_allclose(losses.order_loss(order, amodal), np.mean(terms), rtol=1e-6)


def test_order_gradient_lowers_the_depth_of_the_front_layer(case):
    _, order, amodal, _ = case
    grad = jax.grad(losses.order_loss)(order, amodal)
    assert np.all(grad[:, 0] > 0)  # descent lowers the depth of the layer in front
    assert grad[1, 2] == 0  # the empty layer meets nobody


def test_layers_without_overlap_have_no_order_loss():
    amodal = jnp.zeros((1, 2, 8, 8, 2), jnp.uint8)
    amodal = amodal.at[..., :4, 0].set(1).at[..., 4:, 1].set(1)
    assert losses.order_loss(jnp.array([[3.0, -3.0]]), amodal) == 0


def test_total_is_the_weighted_sum_after_matching(case):
    logits, order, amodal, modal = case
    weights = losses.LossWeights(boundary=0.2, order=0.05, modal=0.1)
    total, terms = losses.layered_loss(logits, order, amodal, modal, weights)
    expected = {"bce": 0.0, "order": 0.0}
    band, entropy = 0.0, 0.0
    for clip in range(2):
        candidates = []
        for match in map(list, itertools.permutations(range(3))):
            candidates.append((entropy64(logits[clip][..., match], amodal[clip]).mean(), match))
        _, match = min(candidates)
        pixels = entropy64(logits[clip][..., match], amodal[clip])
        edge = band64(amodal[clip : clip + 1])[0]
        expected["bce"] += pixels.mean() / 2
        entropy, band = entropy + (pixels * edge).sum(), band + edge.sum()
        one = losses.order_loss(order[clip : clip + 1, np.array(match)], amodal[clip : clip + 1])
        expected["order"] += float(one) / 2
    expected["boundary"] = entropy / band
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5)
    summed = terms["bce"] + 0.2 * terms["boundary"] + 0.05 * terms["order"] + 0.1 * terms["modal"]
    np.testing.assert_allclose(total, summed, rtol=1e-6)


def test_total_does_not_depend_on_the_order_of_predictions(case):
    logits, order, amodal, modal = case
    weights = losses.LossWeights(modal=0.1)
    loss = jax.jit(lambda *of: losses.layered_loss(*of, amodal, modal, weights)[0])
    total = loss(logits, order)
    for permutation in map(np.array, itertools.permutations(range(3))):
        again = loss(logits[..., permutation], order[:, permutation])
        np.testing.assert_allclose(again, total, rtol=1e-5)


def test_without_matching_query_i_has_layer_i(case):
    logits, order, amodal, modal = case
    # Query i predicts layer i, front to back. Then the queries are permuted.
    logits = 8.0 * amodal - 4.0 + 0.01 * logits
    order = jnp.tile(jnp.arange(3.0), (2, 1))
    fixed = losses.LossWeights(matching=False)
    right, terms = losses.layered_loss(logits, order, amodal, modal, fixed)
    matched, _ = losses.layered_loss(logits, order, amodal, modal, losses.LossWeights())
    np.testing.assert_allclose(right, matched, rtol=1e-6)
    np.testing.assert_allclose(terms["bce"], entropy64(logits, amodal).mean(), rtol=1e-5)
    swapped = logits[..., [1, 0, 2]], order[:, jnp.array([1, 0, 2])], amodal, modal
    wrong, terms = losses.layered_loss(*swapped, fixed)
    np.testing.assert_allclose(terms["bce"], entropy64(swapped[0], amodal).mean(), rtol=1e-5)
    np.testing.assert_allclose(terms["order"], losses.order_loss(swapped[1], amodal), rtol=1e-6)
    assert wrong > 5 * right
    matched_again, _ = losses.layered_loss(*swapped, losses.LossWeights())
    np.testing.assert_allclose(matched_again, matched, rtol=1e-5)


@pytest.mark.parametrize("query", [0.0, 0.5])
def test_modal_supervision_ignores_the_amodal_masks(case, query):
    logits, order, amodal, modal = case
    maps = jnp.asarray(np.random.default_rng(3).normal(2, 2, (2, 3, 5, 6, 3)), jnp.float32)
    weights = losses.LossWeights(supervision="modal", query=query)
    total, terms = losses.layered_loss(logits, order, amodal, modal, weights, maps)
    plain = losses.LossWeights(query=query)
    expected, _ = losses.layered_loss(logits, order, modal, modal, plain, maps)
    np.testing.assert_array_equal(total, expected)
    blind, _ = losses.layered_loss(logits, order, jnp.zeros_like(amodal), modal, weights, maps)
    np.testing.assert_array_equal(total, blind)
    assert terms["order"] == 0  # modal masks never overlap
    amodal_total, _ = losses.layered_loss(logits, order, amodal, modal, plain, maps)
    assert total != amodal_total


def test_unknown_supervision_is_rejected():
    with pytest.raises(UserError, match="loss.supervision is 'both'; choose amodal or modal"):
        losses.LossWeights(supervision="both")


def test_query_term_against_float64(case):
    logits, order, amodal, modal = case
    maps = jnp.asarray(np.random.default_rng(1).normal(0, 2, (2, 3, 5, 6, 3)).astype(np.float32))
    weights = losses.LossWeights(query=0.5)
    total, terms = losses.layered_loss(logits, order, amodal, modal, weights, maps)
    # Tokens of 4 x 4 pixels.
    share = np.zeros(maps.shape)
    for clip, t, y, x, k in np.ndindex(*maps.shape):
        tile = amodal[clip, t, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4, k]
        share[clip, t, y, x, k] = np.mean(tile)
    fit = 1 / (1 + np.exp(2 - np.asarray(maps, np.float64)))
    query, bce = [], []
    for clip in range(2):
        candidates = []
        for match in map(list, itertools.permutations(range(3))):
            pixels = entropy64(logits[clip][..., match], amodal[clip]).mean()
            p, g = fit[clip][..., match], share[clip]
            tokens = -(g * np.log(p) + (1 - g) * np.log(1 - p)).mean()
            candidates.append((pixels + 0.5 * tokens, pixels, tokens))
        _, pixels, tokens = min(candidates)
        query.append(tokens)
        bce.append(pixels)
    np.testing.assert_allclose(terms["query"], np.mean(query), rtol=1e-5)
    np.testing.assert_allclose(terms["bce"], np.mean(bce), rtol=1e-5)
    plain = terms["bce"] + 0.2 * terms["boundary"] + 0.05 * terms["order"]
    np.testing.assert_allclose(total, plain + 0.5 * terms["query"], rtol=1e-6)


def test_modal_term_is_off_by_default(case):
    _, terms = losses.layered_loss(*case, losses.LossWeights())
    assert set(terms) == {"bce", "boundary", "order"}


@pytest.mark.parametrize("scale", [0.0, 1e3, 1e30])
def test_values_and_gradients_stay_finite(case, scale):
    logits, order, amodal, modal = case
    weights = losses.LossWeights(modal=0.1)

    def total(logits, order):
        return losses.layered_loss(logits, order, amodal, modal, weights)[0]

    value, grads = jax.value_and_grad(total, argnums=(0, 1))(logits * scale, order * scale)
    assert np.isfinite(value)
    assert all(np.isfinite(grad).all() for grad in grads)


def test_empty_ground_truth_gives_plain_cross_entropy(case):
    logits, order, amodal, modal = case
    total, terms = losses.layered_loss(logits, order, amodal * 0, modal * 0, losses.LossWeights())
    assert terms["boundary"] == 0
    assert terms["order"] == 0
    np.testing.assert_allclose(total, entropy64(logits, np.zeros(SHAPE)).mean(), rtol=1e-6)


def test_non_finite_output_gives_a_non_finite_loss(case):
    logits, order, amodal, modal = case
    broken = logits.at[0, 0, 0, 0, 0].set(jnp.nan)
    total, _ = losses.layered_loss(broken, order, amodal, modal, losses.LossWeights())
    assert not np.isfinite(total)

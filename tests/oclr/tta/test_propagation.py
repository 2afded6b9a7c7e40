"""Propagation: which frames labels come from, dynamic refinement, enlarged masks."""

import jax.numpy as jnp
import numpy as np

from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.oclr.tta.propagation import Propagator, enlarge, object_masks, propagate
from tests.oclr.tta.cells import distinct_cells, random_masks

SHARP = TTAConfig(top=1, radius=3, previous=2)


def test_labels_come_from_the_first_frame_and_the_last_ones():
    masks = random_masks(6)
    propagator = Propagator(distinct_cells(), masks[0], TTAConfig(top=3, radius=3), previous=2)
    for frame in masks[1:]:
        propagator.remember(distinct_cells(), frame)
    expected = (masks[0] + masks[4] + masks[5]) / 3
    np.testing.assert_allclose(propagator.predict(distinct_cells()), expected, atol=1e-5)


def test_labels_follow_what_moves():
    """All cells move one column to the right; on the left nothing is known."""
    cells = distinct_cells()
    (mask,) = random_masks(1)
    moved = jnp.roll(cells, 1, axis=1)
    (found,) = propagate(mask, [cells, moved], SHARP)
    np.testing.assert_allclose(found[:, 1:], mask[:, :-1], atol=1e-5)
    # Out of reach of a smaller neighbourhood.
    (near,) = propagate(mask, [cells, jnp.roll(cells, 3, axis=1)], TTAConfig(radius=2))
    assert np.abs(near[:, 3:] - mask[:, :-3]).max() > 0.1


def test_propagation_is_a_stream():
    masks, read = random_masks(1)[0], []

    def features():
        for frame in range(100):
            read.append(frame)
            yield distinct_cells()

    stream = propagate(masks, features(), SHARP)
    next(stream), next(stream)
    assert read == [0, 1, 2]


def test_masks_of_the_flow_model_are_averaged_in_and_carried_on():
    first, other = random_masks(2)
    features = [distinct_cells()] * 4
    config = TTAConfig(top=1, radius=3, previous=1)
    found = list(propagate(first, features, config, [other, None, None]))
    np.testing.assert_allclose(found[0], (first + other) / 2, atol=1e-5)
    plain = list(propagate(first, features, config))
    np.testing.assert_allclose(plain, [first] * 3, atol=1e-5)
    # Later labels come from the first frame and from the averaged one.
    both = TTAConfig(top=2, radius=3, previous=1)
    later = list(propagate(first, features, both, [other, None, None]))[1]
    np.testing.assert_allclose(later, (first + (first + other) / 2) / 2, atol=1e-4)


def test_masks_of_objects():
    ids = np.array([[0, 3, 7], [3, 3, 9]], np.uint8)
    masks = object_masks(ids, [3, 7])
    assert masks.dtype == np.float32 and np.array_equal(masks.sum(-1), np.ones((2, 3)))
    assert np.array_equal(masks.argmax(-1), [[0, 1, 2], [1, 1, 0]])


def test_faint_masks_are_stretched_and_absent_ones_are_not():
    masks = np.zeros((4, 4, 3), np.float32)
    masks[1:3, 1:3, 1] = 0.3
    masks[..., 0] = 1 - masks[..., 1]
    soft = enlarge(masks, 32, 32)
    assert soft.shape == (32, 32, 3) and soft[..., :2].min() == 0 and soft[..., :2].max() == 1
    assert not soft[..., 2].any()
    assert soft.argmax(-1)[16, 16] == 1 and soft.argmax(-1)[0, 0] == 0

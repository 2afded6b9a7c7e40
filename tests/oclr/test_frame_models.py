"""Masks of single frames as layers of windows."""

import numpy as np

from oclr_jax.oclr.frame_models import align_layers, foreground_layers
from tests.clips import square_masks


def layers(frames: int = 5) -> np.ndarray:
    """Soft masks of two squares and of what is around them."""
    ids = square_masks(frames, 24, 36)
    return np.where(ids[..., None] == [1, 2, 0], 0.9, 0.05).astype(np.float32)


def shuffled(probability: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(probability.shape[-1]) for _ in probability]
    orders[0] = np.arange(probability.shape[-1])
    assert len({tuple(order) for order in orders}) > 1
    return np.stack([frame[..., order] for frame, order in zip(probability, orders, strict=True)])


def test_layers_keep_their_objects():
    truth = layers()
    np.testing.assert_array_equal(align_layers(shuffled(truth)), truth)


def test_an_object_that_is_away_keeps_its_layer():
    truth = layers()[..., :2]
    truth[1:3, ..., 0] = 0
    np.testing.assert_array_equal(align_layers(shuffled(truth)), truth)


def test_the_slot_around_the_others_is_the_background():
    truth = layers()
    slots = np.stack([truth, truth * 0.8], axis=1)
    mixed = shuffled(slots.reshape(10, *truth.shape[1:])).reshape(slots.shape)
    found = foreground_layers(mixed)
    np.testing.assert_allclose(found, 0.9 * truth[..., :2], rtol=1e-6)
    np.testing.assert_allclose(
        foreground_layers(mixed[..., [2, 0, 1]]).sum(-1), found.sum(-1), rtol=1e-6
    )

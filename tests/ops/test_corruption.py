"""Corruption of masks: what each kind does, in spells, and without randomness beyond its key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops.corruption import Corruption, corrupt_masks

NONE = Corruption(truth=0.0, missing=0.0, foreign=0.0, blob=0.0, shifted=0.0, empty=0.0, lost=0.0)


def two_squares() -> jax.Array:
    masks = np.zeros((12, 24, 32, 3), bool)
    for t in range(12):
        masks[t, 4:14, 2 + t : 10 + t, 0] = True
        masks[t, 16:22, 20 - t : 28 - t, 1] = True
    return jnp.asarray(masks)


def corrupt(seed: int = 0, masks=None, **changes) -> jax.Array:
    settings = Corruption(**{**NONE.__dict__, **changes})
    masks = two_squares() if masks is None else masks
    return corrupt_masks(jax.random.key(seed), masks, two_squares(), settings)


def test_without_corruption_nothing_changes():
    np.testing.assert_array_equal(corrupt(), two_squares())


@pytest.mark.parametrize(
    ("kind", "removes", "adds"),
    [
        ("missing", True, False),
        ("foreign", False, True),
        ("blob", False, True),
        ("empty", True, False),
        ("lost", True, False),
        ("shifted", True, True),
    ],
)
def test_each_kind_lasts_for_a_spell(kind, removes, adds):
    before, removed, added, changed = two_squares(), False, False, 0
    for seed in range(6):
        after = corrupt(seed, **{kind: 1.0})
        removed |= bool((before & ~after).any())
        added |= bool((after & ~before).any())
        frames = np.asarray((after != before).any(axis=(1, 2)))  # t k
        assert frames.any(axis=1).sum() <= 12
        assert frames.sum(axis=0).max() <= 6  # half of the clip
        for k in range(3):
            at = np.flatnonzero(frames[:, k])
            assert len(at) == 0 or at[-1] - at[0] + 1 == len(at)
        changed += int(frames.any())
    assert (removed, added) == (removes, adds)
    assert changed >= 4


def test_lost_frames_lose_every_object():
    after = corrupt(1, lost=1.0)
    empty = ~np.asarray(after.any(axis=(1, 2, 3)))
    np.testing.assert_array_equal(empty, ~np.asarray(after[..., 0].any(axis=(1, 2))))
    assert 0 < empty.sum() < 12


def test_the_truth_replaces_predictions():
    nothing = jnp.zeros_like(two_squares())
    np.testing.assert_array_equal(corrupt(0, nothing, truth=1.0), two_squares())


def test_the_same_key_gives_the_same_masks():
    every = {"missing": 1.0, "foreign": 1.0, "blob": 1.0, "empty": 0.5}
    np.testing.assert_array_equal(corrupt(3, **every), corrupt(3, **every))
    assert (corrupt(3, **every) != corrupt(4, **every)).any()

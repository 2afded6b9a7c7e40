"""Exemplars, windows and hard masks: the published helpers, and short clips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.selector import mask_quality
from oclr_jax.ops.selection import (
    frame_windows,
    one_object_per_pixel,
    select_exemplars,
    selection_ap,
    take_frames,
    take_own_frames,
)


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "reference" / "golden" / "refine_utils.npz") as file:
        return dict(file)


@pytest.mark.parametrize("count", [4, 10])
def test_published_exemplars(golden, count):
    index, valid = select_exemplars(jnp.asarray(golden["select/scores"])[None], count)
    np.testing.assert_array_equal(index[0].T, golden[f"select/n{count}"])
    assert valid.all()


def test_a_clip_shorter_than_the_exemplars_is_padded():
    index, valid = select_exemplars(jnp.array([[[3.0], [1.0], [2.0]]]), 5)
    np.testing.assert_array_equal(valid[0, :, 0], [True, True, True, False, False])
    np.testing.assert_array_equal(index[0, :3, 0], [0, 1, 2])
    index, valid = select_exemplars(jnp.array([[[3.0], [1.0], [9.0]]]), 2, jnp.array([1]))
    np.testing.assert_array_equal(valid[0, :, 0], [True, False])
    assert index[0, 0, 0] == 0


@pytest.mark.parametrize("count", [3, 7, 10, 14, 22, 30])
def test_published_windows(golden, count):
    np.testing.assert_array_equal(frame_windows(count, 7), golden[f"windows/n{count}_f7"])


def test_published_hard_masks(golden):
    probability = jnp.moveaxis(jnp.asarray(golden["hardmax/in"]), 2, -1)
    for threshold, name in ((0.5, "out"), (-1.0, "out_full")):
        masks = jnp.moveaxis(one_object_per_pixel(probability, threshold), -1, 2)
        np.testing.assert_array_equal(masks, golden[f"hardmax/{name}"])


def test_published_exemplar_frames(golden):
    values = jnp.asarray(golden["global/in"])
    index = jnp.asarray(golden["global/list"].transpose(0, 2, 1))
    own = take_own_frames(values, index)
    np.testing.assert_array_equal(own, golden["global/out_per_object"])
    # The frames of every object's exemplars, with all objects in them.
    np.testing.assert_array_equal(take_frames(values, index), golden["global/out_all"])


def test_published_scores(golden):
    error_map = jnp.moveaxis(jnp.asarray(golden["score/errormap"]), (2, 3), (4, 5))
    masks = jnp.moveaxis(jnp.asarray(golden["score/mask"], jnp.float32), 2, -1)
    scores = jax.nn.softmax(mask_quality(error_map, masks), axis=1)
    np.testing.assert_allclose(scores, golden["score/out"], atol=1e-6)


def test_selection_ap():
    iou = np.linspace(0, 1, 40)
    assert selection_ap(iou, iou) == 1
    # The worst order finds the ten best at ranks 11 to 20.
    worst = np.mean(np.arange(1, 11) / np.arange(11, 21))
    assert selection_ap(-iou, iou) == pytest.approx(worst)
    assert selection_ap(np.zeros(40), iou) == 0.5
    # Found at ranks 2 and 3 of 4: the mean of 1/2 and 2/3.
    assert selection_ap(np.array([4.0, 3.0, 2.0, 1.0]), np.array([0.0, 0.9, 1.0, 0.1])) == (
        pytest.approx((1 / 2 + 2 / 3) / 2)
    )
    # One of the best as good as one of the worst: 1, and 2 of 3.
    assert selection_ap(np.array([4.0, 2.0, 2.0, 1.0]), np.array([1.0, 0.9, 0.1, 0.0])) == (
        pytest.approx((1 + 2 / 3) / 2)
    )
    draws = np.random.default_rng(0).random((600, 40))
    chance = jax.jit(jax.vmap(selection_ap, (0, None)))(draws, iou).mean()
    assert chance == pytest.approx(0.568, abs=0.02)  # table 3's figure for random selection
    assert np.isnan(selection_ap(np.zeros(1), np.zeros(1)))

"""The augmentation of clips: what it may do, and that each part of it is applied."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loaders.clip_augmentation import NO_AUGMENTATION, Augmentation, augment
from data_pipelines.loaders.clip_transforms import drop_unseen, visible_layers
from oclr_jax.errors import UserError
from tests.data_pipelines.squares import assert_equal, moving_squares


@pytest.fixture
def clip():
    return moving_squares([(2, 1), (-1, -2)])


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_augmented_clips_stay_valid_and_show_an_object(seed):
    clip = moving_squares([(2, 1), (-1, -2)])
    before = {name: value.copy() for name, value in clip.items()}
    # Windows so small that many of them miss every object.
    limits = Augmentation(flip_vertical=0.5, zoom=1.0, min_window=0.1, camera=0.5)
    one = augment(clip, np.random.default_rng(seed), limits)
    assert one["flow"].shape == clip["flow"].shape and one["flow"].dtype == np.float32
    assert np.isfinite(one["flow"]).all()
    assert one["modal"].dtype == one["amodal"].dtype == np.uint8
    assert (one["modal"] <= one["amodal"]).all()
    present = visible_layers(one["modal"])
    assert present.any()
    # Objects first, empties last, and nothing amodal of what is never seen.
    assert present.tolist() == sorted(present.tolist(), reverse=True)
    assert visible_layers(one["amodal"]).tolist() == present.tolist()
    assert_equal(clip, before)
    assert_equal(augment(clip, np.random.default_rng(seed), limits), one)


def test_no_augmentation_changes_nothing(clip):
    assert_equal(augment(clip, np.random.default_rng(0), NO_AUGMENTATION), clip)


@pytest.mark.parametrize(
    "name",
    ["flip_horizontal", "flip_vertical", "reverse_time", "zoom", "camera", "rest"],
)
def test_every_augmentation_is_applied(clip, name):
    only = dataclasses.replace(NO_AUGMENTATION, **{name: 1.0})
    changed = augment(clip, np.random.default_rng(0), only)
    assert (changed["flow"] != clip["flow"]).any()


def test_parts_swing_one_after_the_other():
    """With a probability of 0.9 for another one, both of two objects change in most clips."""
    clip = moving_squares([])
    for k, corner in enumerate((2, 14)):
        square = np.s_[:, corner : corner + 6, corner : corner + 6]
        clip["amodal"][square][..., k] = clip["modal"][square][..., k] = 1
        clip["flow"][square] = 1, 0, -1, 0
    often = dataclasses.replace(NO_AUGMENTATION, swing=0.9)
    both = 0
    for seed in range(20):
        changed = augment(clip, np.random.default_rng(seed), often)["flow"] != clip["flow"]
        both += all((changed.any(axis=-1) & (clip["modal"][..., k] == 1)).any() for k in (0, 1))
    assert both > 10


@pytest.mark.parametrize("swing", [-0.1, 1.0])
def test_a_swing_that_never_ends_is_refused(swing):
    with pytest.raises(UserError, match="below 1"):
        Augmentation(swing=swing)


def test_layers_that_are_never_seen_are_dropped():
    clip = moving_squares([(2, 1), (-1, -2), (0, 0)])
    clip["modal"][..., 1] = 0
    assert_equal(augment(clip, np.random.default_rng(0), NO_AUGMENTATION), drop_unseen(clip))


def test_speed_is_sampled_from_its_range(clip):
    faster = dataclasses.replace(NO_AUGMENTATION, min_speed=2.0, max_speed=3.0)
    factors = [
        augment(clip, np.random.default_rng(seed), faster)["flow"].max() / clip["flow"].max()
        for seed in range(30)
    ]
    assert 2 <= min(factors) < 2.2 and 2.8 < max(factors) <= 3

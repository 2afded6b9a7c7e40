"""Parts that rest and swing: what changes, and what does not."""

import numpy as np
import pytest

from data_pipelines.loaders.clip_transforms import FlowClip, add_camera
from data_pipelines.loaders.part_motion import SWING, rest_part, swing_part
from tests.data_pipelines.squares import CAMERA, H, K, T, W, assert_equal, moving_squares


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def neighbours() -> FlowClip:
    """Two resting squares of 8x8 pixels, six apart, whose flow is that of two motions."""
    amodal = np.zeros((T, H, W, K), np.uint8)
    amodal[:, 8:16, 4:12, 0] = 1
    amodal[:, 8:16, 18:26, 1] = 1
    flow = np.zeros((T, H, W, 4), np.float32)
    flow[amodal[..., 0] == 1] = 2, 1, -2, -1
    flow[amodal[..., 1] == 1] = -1, 3, 1, -3
    return FlowClip(flow=flow, amodal=amodal, modal=amodal.copy())


@pytest.mark.parametrize("seed", range(12))
def test_a_resting_part_moves_with_the_camera(seed):
    """What changes becomes the camera's flow, around the visible pixels of one object."""
    clip = add_camera(moving_squares([(2, 1), (-1, -2)]), CAMERA)
    still = add_camera(moving_squares([]), CAMERA)["flow"]
    rested = rest_part(clip, rng(seed))
    np.testing.assert_array_equal(rested["amodal"], clip["amodal"])
    np.testing.assert_array_equal(rested["modal"], clip["modal"])
    changed = np.abs(rested["flow"] - clip["flow"]).max(axis=-1) > 1e-3
    frames = np.flatnonzero(changed.any(axis=(1, 2)))
    assert 1 <= len(frames) <= T // 2 and np.ptp(frames) == len(frames) - 1
    np.testing.assert_allclose(rested["flow"][changed], still[changed], atol=2e-2)
    layers = [k for k in range(K) if (changed & (clip["modal"][..., k] == 1)).any()]
    assert len(layers) == 1


def test_resting_differs_between_clips_and_needs_an_object():
    clip = moving_squares([(2, 1), (-1, -2)])
    changes = [rest_part(clip, rng(seed))["flow"] - clip["flow"] for seed in range(20)]
    areas = {int(np.abs(change).any(axis=-1).sum()) for change in changes}
    assert len(areas) > 5
    empty = moving_squares([])
    assert_equal(rest_part(empty, rng(0)), empty)


@pytest.mark.parametrize("seed", range(12))
def test_a_swinging_part_moves_against_the_rest_of_its_object(seed):
    clip = neighbours()
    swung = swing_part(clip, rng(seed))
    for name in ("amodal", "modal"):
        np.testing.assert_array_equal(swung[name], clip[name])
    change = swung["flow"] - clip["flow"]
    # What a frame sees ahead, it sees back: the part goes to and fro, slowly.
    np.testing.assert_allclose(change[..., :2], -change[..., 2:], atol=1e-5)
    changed = np.abs(change).max(axis=-1) > 1e-6
    left, right = changed[:, 7:17, 3:13].any(), changed[:, 7:17, 17:27].any()
    assert left != right
    # One pixel further in than the soft edge, the rest of the object moves as before.
    kept = (~changed & clip["modal"][..., 0 if left else 1].astype(bool)).any(axis=(1, 2))
    assert kept.all()
    changed[:, 7:17, 3:13] = changed[:, 7:17, 17:27] = False
    assert not changed.any()


def test_parts_swing_by_a_share_of_the_speed_of_their_object():
    slow, fast = moving_squares([(1, 0)]), moving_squares([(1, 0)])
    fast["flow"] *= 3
    changes = [
        [np.abs(swing_part(clip, rng(seed))["flow"] - clip["flow"]).max() for seed in range(40)]
        for clip in (slow, fast)
    ]
    np.testing.assert_allclose(3 * np.array(changes[0]), changes[1], rtol=1e-3, atol=1e-5)
    assert 0.1 * SWING < np.median(changes[0]) < 4 * SWING
    # In some clips the part that is cut off is small, or all of the object.
    assert len(set(np.round(changes[0], 4))) > 20


def test_nothing_swings_in_a_clip_without_objects():
    empty = moving_squares([])
    assert_equal(swing_part(empty, rng(0)), empty)


@pytest.mark.parametrize("change", [rest_part, swing_part])
def test_the_given_clip_is_not_changed(change):
    clip, same = neighbours(), neighbours()
    change(clip, rng(1))
    assert_equal(clip, same)

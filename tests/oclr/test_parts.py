"""Objects that are parts of one are joined, and others are not."""

import numpy as np
import pytest

from oclr_jax.oclr.strands import WindowLayers
from oclr_jax.oclr.tracking import link_windows
from oclr_jax.storage import ArrayFile

FRAMES, HEIGHT, WIDTH = 12, 24, 48
SIDE = 8


def window(
    shared: int = 3,
    other_speed: float = 1.0,
    last: int = FRAMES,
    known: bool = True,
    camera: float = 0.5,
) -> WindowLayers:
    """Two squares that share `shared` columns, with a gap if negative; the second until `last`.

    The camera moves, too; the second square's flow is `other_speed` times that of the first.
    """
    probability = np.full((FRAMES, HEIGHT, WIDTH, 2), 0.1, np.float32)
    flow = np.full((FRAMES, HEIGHT, WIDTH, 2), camera, np.float32)
    for t in range(FRAMES):
        for layer, x in enumerate((4 + t, 4 + t + SIDE - shared)):
            if layer and t >= last:
                continue
            place = np.s_[t, 8 : 8 + SIDE, x : x + SIDE]
            probability[place][..., layer] = 0.9
            flow[place][..., 0] = camera + (other_speed if layer else 1.0)
    images = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    return WindowLayers(0, 0, probability, np.arange(2.0), images, flow if known else None)


@pytest.mark.parametrize("shared", [3, 0])
def test_parts_that_touch_and_move_alike_are_one_object(shared):
    (track,) = link_windows([window(shared)], file := ArrayFile())
    assert (track.id, track.rank) == (1, 0) and sorted(track.amodal) == list(range(FRAMES))
    for frame, mask in track.amodal.items():
        expected = (window(shared).probability[frame] > 0.5).any(axis=-1)
        np.testing.assert_array_equal(mask.decode(), expected)
        np.testing.assert_array_equal(
            track.amodal_probability[frame].decode() > 0.5, expected, str(file)
        )
        assert mask.score == pytest.approx(0.9)


@pytest.mark.parametrize(
    "different",
    [
        {"shared": -1},
        {"other_speed": 1.3},
        {"other_speed": -1.0},
        {"last": 9},
        {"known": False},
    ],
)
def test_others_stay_two(different):
    assert len(link_windows([window(**different)])) == 2


def test_the_motion_of_the_camera_does_not_count():
    """Both squares are fast in the image, and one of them is nearly still beside the other."""
    assert len(link_windows([window(camera=20.0, other_speed=0.3)])) == 2

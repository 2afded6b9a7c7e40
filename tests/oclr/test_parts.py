"""Layers that are parts of one object are joined, and others are not."""

import dataclasses

import numpy as np
import pytest

from oclr_jax.models.oclr import OCLRConfig
from oclr_jax.oclr.parts import join_parts
from oclr_jax.oclr.predict import FlowWindow, Segmenter, predict_layers
from oclr_jax.oclr.strands import WindowLayers
from oclr_jax.oclr.tracking import link_windows
from oclr_jax.weights.description import WeightsInfo

FRAMES, HEIGHT, WIDTH = 12, 24, 48
SIDE = 8
# Of the layers of `window`, of 64, 64 and 32 pixels: the smallest is in front.
ORDER = np.array([1.0, 2.0, 0.0])


def window(
    shared: int = 3,
    other_speed: float = 1.0,
    last: int = FRAMES,
    known: bool = True,
    camera: float = 0.5,
    third: bool = False,
) -> WindowLayers:
    """Two squares that share `shared` columns, with a gap if negative; the second until `last`.

    The camera moves, too; the second square's flow is `other_speed` times that of the first. A
    third part adjoins the second if there is one.
    """
    probability = np.full((FRAMES, HEIGHT, WIDTH, 3), 0.1, np.float32)
    flow = np.full((FRAMES, HEIGHT, WIDTH, 2), camera, np.float32)
    for t in range(FRAMES):
        left = 4 + t
        starts = (left, left + SIDE - shared, left + 2 * SIDE - shared)[: 3 if third else 2]
        for layer, x in enumerate(starts):
            if layer == 1 and t >= last:
                continue
            place = np.s_[t, 8 : 8 + SIDE, x : x + (SIDE // 2 if layer == 2 else SIDE)]
            probability[place][..., layer] = (0.9, 0.8, 0.7)[layer]
            flow[place][..., 0] = camera + (other_speed if layer == 1 else 1.0)
    images = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    return WindowLayers(0, 0, probability, ORDER, images, flow if known else None)


@pytest.mark.parametrize("shared", [3, 0])
@pytest.mark.parametrize("third", [False, True])
def test_parts_that_touch_and_move_alike_are_one_layer(shared, third):
    before = window(shared, third=third)
    after = join_parts(before)
    whole = before.probability.max(axis=-1)
    np.testing.assert_array_equal(after.probability[..., 0], whole, "of two equal parts the first")
    assert (after.probability[..., 1] == 0).all()
    np.testing.assert_array_equal(after.order, before.order)
    (track,) = link_windows([after])
    assert sorted(track.amodal) == list(range(FRAMES))
    for frame, mask in track.amodal.items():
        np.testing.assert_array_equal(mask.decode(), whole[frame] > 0.5)


def test_the_object_takes_the_layer_of_its_largest_part():
    """The smaller part is the first layer."""
    before = window(third=True)
    swapped = before.probability[..., [2, 1, 0]]
    after = join_parts(dataclasses.replace(before, probability=swapped))
    assert (after.probability[..., [0, 2]] == 0).all(), "of two equal parts the first"
    np.testing.assert_array_equal(after.probability[..., 1], swapped.max(axis=-1))


def test_a_part_between_two_others_joins_them():
    """The part in the middle is the last layer; the others do not touch."""
    before = window(third=True)
    swapped = before.probability[..., [0, 2, 1]]
    after = join_parts(dataclasses.replace(before, probability=swapped))
    np.testing.assert_array_equal(after.probability[..., 0], swapped.max(axis=-1))
    assert (after.probability[..., 1:] == 0).all()


@pytest.mark.parametrize("join", [False, True])
def test_the_weights_decide(join):
    made = window()

    def predict(params, flow):
        return made.probability[None], made.order[None]

    info = WeightsInfo(OCLRConfig(queries=3, frames=FRAMES, gaps=(1,)), "any")
    segmenter = Segmenter(None, info, predict, join_parts=join)
    found = predict_layers(segmenter, FlowWindow(0, 0, FRAMES, made.flow, made.images))
    expected = join_parts(made) if join else made
    np.testing.assert_array_equal(found.probability, expected.probability)


@pytest.mark.parametrize(
    "different",
    [
        {"shared": -1},
        {"other_speed": 1.3},
        {"other_speed": -1.0},
        {"last": 9},
        {"known": False},
        {"shared": 6},  # each is hidden by the other, so what it shows is not its own
        # Both squares are fast in the image, and one of them is nearly still beside the other.
        {"camera": 20.0, "other_speed": 0.3},
    ],
)
def test_others_stay_two(different):
    before = window(**different)
    np.testing.assert_array_equal(join_parts(before).probability, before.probability)


def test_what_cannot_be_known_is_left_as_it_is():
    """A short window, and one without background to see the camera's motion in."""
    whole = window()
    short = dataclasses.replace(
        whole, probability=whole.probability[:7], images=whole.images[:7], flow=whole.flow[:7]
    )
    full = dataclasses.replace(whole, probability=np.full_like(whole.probability, 0.9))
    for before in (short, full):
        np.testing.assert_array_equal(join_parts(before).probability, before.probability)

"""Hidden pixels: which of two objects hides the other, counted by hand and on rendered scenes."""

import numpy as np
import pytest

from data_pipelines.synthetic import render
from data_pipelines.synthetic.tracking_scenes import tracking_scene
from oclr_jax.ops.occlusion import hidden_pixels, object_motion

HEIGHT, WIDTH = 40, 80
LOW, HIGH = 3, 7  # ids


def boxes(front_at: int, back_at: int, front: int = LOW, back: int = HIGH) -> np.ndarray:
    """Two boxes of 20 rows and 20 columns whose left columns are given; one hides the other."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[10:30, back_at : back_at + 20] = back
    ids[10:30, front_at : front_at + 20] = front
    return ids


def motion(ids: np.ndarray, **columns: int) -> np.ndarray:
    """Flow in which the objects move by whole columns and the background rests."""
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[ids == LOW, 0] = columns.get("low", 0)
    flow[ids == HIGH, 0] = columns.get("high", 0)
    return flow


@pytest.mark.parametrize("front, back", [(LOW, HIGH), (HIGH, LOW)])
@pytest.mark.parametrize("step", [2, -2])
def test_counts_what_disappears_or_has_just_appeared(front, back, step):
    """20 rows of 2 columns, whichever object moves, in either direction of time."""
    names = {LOW: "low", HIGH: "high"}
    here = boxes(30, 45, front, back)
    there = boxes(30 + step, 45, front, back)
    found = hidden_pixels(here, there, motion(here, **{names[front]: step}))
    assert found == ({(back, front): 40} if step > 0 else {})
    there = boxes(30, 45 + step, front, back)
    found = hidden_pixels(here, there, motion(here, **{names[back]: step}))
    assert found == ({(back, front): 40} if step < 0 else {})


def test_wrong_flow_at_an_outline_does_not_count():
    here, there = boxes(30, 45), boxes(30, 47)
    flow = motion(here, high=2)
    assert hidden_pixels(here, there, flow) == {}
    flow[:, 48:51] = (-9, 0)  # smeared from the front object
    assert hidden_pixels(here, there, flow) == {}


def test_pixels_that_leave_the_frame_and_objects_that_are_far_apart_do_not_count():
    here = np.zeros((HEIGHT, WIDTH), np.uint8)
    here[10:30, :10], here[10:30, 60:] = LOW, HIGH
    flow = np.full((HEIGHT, WIDTH, 2), -30, np.float32)
    assert hidden_pixels(here, here, flow) == {}
    here[10:30, 50:60] = LOW
    assert hidden_pixels(here, here, -2 * flow) == {}


def test_one_object_or_none_hides_nothing():
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    flow = np.ones((HEIGHT, WIDTH, 2), np.float32)
    assert hidden_pixels(ids, ids, flow) == {}
    ids[3:9, 3:9] = LOW
    assert hidden_pixels(ids, ids, flow) == {}


def test_the_motion_of_an_object_is_that_of_its_inside():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 20:40] = 1
    flow = np.full((HEIGHT, WIDTH, 2), 50, np.float32)
    flow[11:29, 21:39] = (3, -1)
    found = object_motion(flow, mask)
    np.testing.assert_allclose(
        found[10:30, 20:40], np.broadcast_to((3, -1), (20, 20, 2)), atol=1e-3
    )
    line = np.zeros_like(mask)
    line[:, 5] = 1
    np.testing.assert_allclose(object_motion(flow, line), 50, rtol=1e-3)


def test_true_masks_and_flow_give_the_true_order():
    """Layers of a rendered scene are front to back, so a lower id is in front."""
    sample = render(tracking_scene("cross-once", 5))
    ids, flows = sample["segmentations"], (sample["forward_flow"], sample["backward_flow"])
    right = wrong = 0
    for frame in range(1, len(ids) - 1):
        for flow, gap in zip(flows, (1, -1), strict=True):
            found = hidden_pixels(ids[frame], ids[frame + gap], flow[frame])
            right += sum(count for (back, front), count in found.items() if front < back)
            wrong += sum(count for (back, front), count in found.items() if front > back)
    assert right > 100 and wrong < 0.1 * right

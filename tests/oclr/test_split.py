"""One layer that shows two objects in some windows, which have a layer each in others."""

import numpy as np
import pytest

from oclr_jax.oclr.strands import WindowLayers
from oclr_jax.oclr.tracking import link_windows
from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import Track

H, W, T, OVERLAP = 32, 96, 10, 4
FRAMES = 22
# Frames with background between the two boxes; they touch in all others.
PARTED = (3, 18)


def pair(frame: int, parted: tuple[int, ...] = PARTED) -> tuple[np.ndarray, np.ndarray]:
    """Two boxes that move to the right together."""
    upper, lower = np.zeros((2, H, W), bool)
    upper[4:14, 4 + 2 * frame : 16 + 2 * frame] = True
    lower[16 if frame in parted else 14 : 26, 8 + 2 * frame : 16 + 2 * frame] = True
    return upper, lower


def windows(merged: range, parted: tuple[int, ...] = PARTED) -> list[WindowLayers]:
    """Windows of `FRAMES` frames; those that start in `merged` have both boxes in one layer."""
    rng = np.random.default_rng(0)
    images = np.full((FRAMES, H, W, 3), 120.0)
    for frame in range(FRAMES):
        for mask, colour in zip(pair(frame, parted), ((200, 60, 50), (60, 90, 210)), strict=True):
            images[frame][mask] = colour
    images = np.clip(images + rng.normal(0, 12, images.shape), 0, 255).astype(np.uint8)
    made = []
    for start in range(0, FRAMES - OVERLAP, T - OVERLAP):
        masks = np.zeros((T, H, W, 3), bool)
        for at in range(T):
            upper, lower = pair(start + at, parted)
            masks[at, ..., 0] = upper | lower if start in merged else upper
            masks[at, ..., 1] = False if start in merged else lower
        probability = np.where(masks, 0.9, 0.1).astype(np.float32)
        order, shown = np.arange(3.0), images[start : start + T]
        made.append(WindowLayers(0, start, probability, order, shown))
    return made


def check(tracks: list[Track]) -> None:
    assert len(tracks) == 2
    by_height = sorted(tracks, key=lambda track: np.nonzero(track.amodal[0].decode())[0].mean())
    for number, track in enumerate(by_height):
        assert list(track.amodal) == list(range(FRAMES))
        for frame, stored in track.amodal.items():
            mask, truth = stored.decode(), pair(frame)[number]
            assert (mask & truth).sum() / (mask | truth).sum() > 0.85, (number, frame)


@pytest.mark.parametrize("merged", [range(0, 8), range(8, 20), range(5, 8)], ids=str)
def test_objects_in_one_layer_are_split(merged):
    """At the start, at the end, and in the middle."""
    check(link_windows(windows(merged)))


def test_parts_that_always_touch_are_not_split():
    """As an arm and a body, which move alike for a while."""
    tracks = link_windows(windows(range(0, 8), parted=()))
    (whole,) = (track for track in tracks if 0 in track.amodal)
    upper, lower = pair(0, parted=())
    assert np.array_equal(whole.amodal[0].decode(), upper | lower)


def test_probabilities_are_split_with_the_masks():
    tracks = link_windows(windows(range(0, 8)), ArrayFile())
    check(tracks)
    for track in tracks:
        assert list(track.amodal_probability) == list(range(FRAMES))
        for frame, stored in track.amodal_probability.items():
            assert np.array_equal(stored.decode() > 0.5, track.amodal[frame].decode())


def test_a_mask_that_does_not_show_both_is_not_split():
    """A second object appears beside the first one, where there was nothing before."""
    made = windows(range(0))
    for window in made[:2]:
        window.probability[..., 1] = 0.1
    upper, lower = link_windows(made)
    assert min(upper.amodal) == 0 and min(lower.amodal) == 12 + OVERLAP // 2
    for frame, stored in upper.amodal.items():
        assert np.array_equal(stored.decode(), pair(frame)[0])

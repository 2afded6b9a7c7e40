"""Cuts are found; motion, flashes and fades are none."""

import cv2
import numpy as np
import pytest

from oclr_jax.video.shots import find_shots


def picture(seed: int) -> np.ndarray:
    """A picture with its own colours and its own coarse structure."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return cv2.resize(coarse, (160, 96), interpolation=cv2.INTER_CUBIC)


def pan(seed: int, frames: int) -> list[np.ndarray]:
    return [np.roll(picture(seed), 3 * i, axis=1) for i in range(frames)]


def test_cuts_are_found():
    frames = pan(0, 5) + pan(1, 1) + pan(2, 4)
    assert find_shots(frames) == [range(0, 5), range(5, 6), range(6, 10)]


def test_motion_is_no_cut():
    assert find_shots(np.roll(picture(0), 8 * i, axis=1) for i in range(12)) == [range(12)]


def test_a_flash_and_a_fade_are_no_cut():
    bright = [np.clip(picture(0) * gain, 0, 255).astype(np.uint8) for gain in (1, 1.5, 1, 0.6, 0.3)]
    assert find_shots(bright) == [range(5)]


def test_a_cut_between_like_colours():
    """One scene turned round: not a colour differs."""
    frames = pan(0, 4) + [frame[:, ::-1].copy() for frame in pan(0, 4)]
    assert find_shots(frames) == [range(4), range(4, 8)]


def test_dark_and_noisy_frames():
    rng = np.random.default_rng(0)
    dark = [rng.integers(0, 12, (40, 50, 3)).astype(np.uint8) for _ in range(4)]
    assert find_shots(dark) == [range(4)]
    assert find_shots([np.zeros((40, 50, 3), np.uint8)] * 4) == [range(4)]


def test_no_frames():
    assert find_shots([]) == []


@pytest.mark.parametrize("sequence", ["blackswan", "dance-twirl"])
def test_real_motion_is_no_cut(shared_dir, sequence):
    folder = shared_dir / "data/davis2016_dev/JPEGImages/480p" / sequence
    frames = [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())[:20]]
    assert find_shots(np.ascontiguousarray(frame) for frame in frames) == [range(20)]

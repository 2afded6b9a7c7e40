"""Repeated frames are found in coded video; slow and still scenes have none."""

import numpy as np
import pytest

from oclr_jax.video.clip import open_clip
from oclr_jax.video.repeats import RepeatFinder
from oclr_jax.video.shots import thumbnail
from tests.clips import moving_clip, texture
from tests.video.videos import encode, write_video


def originals(frames) -> list[int]:
    finder = RepeatFinder()
    for frame in frames:
        finder.add(thumbnail(frame))
    return finder.originals()


def telecine(frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """24 frames as 30: every fourth one twice. Also the number of the frame each one repeats."""
    order = [i for i in range(len(frames)) for _ in range(1 + (i % 4 == 3))]
    first = [order.index(i) for i in order]
    return frames[order], first


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"crf": "18"}),
        ("libx264", {"crf": "24", "g": "12"}),
        ("mpeg4", {"flags": "qscale", "global_quality": "600"}),
        ("libvpx-vp9", {"crf": "34", "b": "0", "cpu-used": "8"}),
    ],
)
def test_repeats_are_found_through_the_noise_of_coding(tmp_path, codec, options):
    frames, expected = telecine(moving_clip(16, 192, 288))
    path = encode(tmp_path / "v.mkv", frames, codec, 30, options=options)
    clip = open_clip(path)
    assert clip.repeats == {i: first for i, first in enumerate(expected) if first != i}
    moving = clip.without_repeats()
    assert moving.count == len(list(moving.frames())) == 16
    assert clip.positions() == [i for i in range(16) for _ in range(1 + (i % 4 == 3))]


def test_frames_on_twos_and_threes_and_a_pause():
    clip = moving_clip(6, 192, 288)
    order = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5]
    assert originals(clip[order]) == [order.index(i) for i in order]


def test_still_and_slow_scenes_have_no_repeats():
    rng = np.random.default_rng(0)
    still = np.stack([texture(0, 96, 144)] * 12)
    noisy = np.clip(still + rng.normal(0, 2, still.shape), 0, 255).astype(np.uint8)
    assert originals(noisy) == list(range(12))
    wide = texture(1, 384, 640)
    slow = [wide[:, i : i + 576] for i in range(24)]  # one pixel a frame, of 576
    assert originals(slow) == list(range(24))


def test_a_cut_separates_what_looks_alike():
    first, second = moving_clip(4), 255 - moving_clip(4)
    clip = open_clip(np.concatenate([first, second, second[-1:], first[-1:]]))
    assert clip.shots == [range(0, 4), range(4, 9), range(9, 10)]
    assert clip.repeats == {8: 7}
    assert clip.without_repeats().shots == [range(0, 4), range(4, 8), range(8, 9)]
    assert clip.positions() == [0, 1, 2, 3, 4, 5, 6, 7, 7, 8]


def test_the_times_and_names_of_the_frames_that_are_left(tmp_path):
    frames, _ = telecine(moving_clip(8))
    clip = open_clip(write_video(tmp_path / "v.mp4", frames)).without_repeats()
    assert clip.stems == [f"{i:05d}" for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert [float(25 * time) for time in clip.times] == [0, 1, 2, 3, 5, 6, 7, 8]

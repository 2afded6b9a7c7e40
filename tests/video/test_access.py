"""Single frames by number are those of the stream, in whatever order they are read."""

import random

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.video.access import FrameAccess
from oclr_jax.video.clip import open_clip
from oclr_jax.video.file import VideoFile
from oclr_jax.video.reader import open_video
from tests.clips import moving_clip, write_frames
from tests.video.videos import encode

FRAMES = 40


def numbered_frames() -> np.ndarray:
    """Frames that all differ, also after lossy coding."""
    frames = moving_clip(FRAMES, 48, 64)
    for number, frame in enumerate(frames):
        frame[:8, : 1 + number] = 255
    return frames


def in_any_order(path) -> None:
    clip = open_clip(path)
    expected = list(clip.frames())
    access = FrameAccess(open_video(path), [round(float(time), 6) for time in clip.times])
    order = [0, 1, 2, FRAMES - 1, 20, 19, 21, 5, *random.Random(0).sample(range(FRAMES), 12)]
    for number in order:
        assert np.array_equal(access.read(number), expected[number]), number
    for number in (-1, FRAMES):
        with pytest.raises(UserError, match="There is no frame"):
            access.read(number)


@pytest.mark.parametrize(
    "name, codec, options",
    [
        ("b_frames.mp4", "libx264", {"g": "12", "bf": "3"}),
        ("one_key.mkv", "libx264", {"g": "1000"}),
        ("vp9.webm", "libvpx-vp9", {"g": "10"}),
        ("intra.avi", "mjpeg", {}),
        ("stream.ts", "libx264", {"g": "8"}),
    ],
)
def test_video_files(tmp_path, name, codec, options):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    in_any_order(encode(tmp_path / name, numbered_frames(), codec, pixels=pixels, options=options))


def test_a_folder(tmp_path):
    in_any_order(write_frames(tmp_path / "clip", numbered_frames()))


def test_a_far_frame_is_sought_not_decoded_up_to(tmp_path, monkeypatch):
    options = {"g": "10", "bf": "0"}
    path = encode(tmp_path / "a.mp4", numbered_frames(), "libx264", options=options)
    clip, decoded = open_clip(path), []
    access = FrameAccess(open_video(path), [float(time) for time in clip.times])
    decode = VideoFile.decode_from

    def count(self, stamp):
        for frame in decode(self, stamp):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoFile, "decode_from", count)
    access.read(35)
    assert len(decoded) == 6
    access.read(36)
    assert len(decoded) == 7, "the decoder went on"
    access.read(36)
    assert len(decoded) == 7 + 7, "and went back to the key frame"


def test_stamps_that_do_not_fit_the_record_are_not_trusted(tmp_path):
    path = encode(tmp_path / "a.mp4", numbered_frames(), "libx264", options={"g": "10"})
    expected = list(open_clip(path).frames())
    access = FrameAccess(open_video(path), [number / 7 for number in range(FRAMES)])
    for number in (30, 3, 31):
        assert np.array_equal(access.read(number), expected[number])

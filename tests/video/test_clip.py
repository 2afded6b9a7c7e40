"""Videos as clips: their rate and times, and files that change while they are read."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from oclr_jax.errors import InputWarning, UserError
from oclr_jax.video.clip import PROGRESS, open_clip, progress
from tests.video.videos import encode, noise, numbered, numbers_of, write_video

JITTERED = [0, 29, 70, 99, 140, 170, 211, 240]


def browser_recording(path):
    """WebM as a browser's recorder writes it: times in ms, no frame rate and no duration."""
    with av.open(str(path), "w", format="webm", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for stamp, frame in zip(JITTERED, numbered(8), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    place = content.find(b"\x23\xe3\x83")  # DefaultDuration becomes a Void element
    if place >= 0:
        size = content[place + 3] & 0x7F
        void = b"\xec" + bytes([0x80 | (size + 2)]) + bytes(size + 2)
        path.write_bytes(content[:place] + void + content[place + 4 + size :])
    return path


def uneven_mp4(path):
    return encode(path, numbered(8), milliseconds=JITTERED, rate=30)


def test_the_rate_and_the_times_are_those_of_the_time_stamps(tmp_path):
    for path in (browser_recording(tmp_path / "r.webm"), uneven_mp4(tmp_path / "u.mp4")):
        clip = open_clip(path)
        assert [round(1000 * time) for time in clip.times] == JITTERED
        assert float(clip.fps) == pytest.approx(7 / 0.24)
        assert numbers_of(clip.frames()) == list(range(8))


def test_raw_h264_has_the_rate_of_its_stream(tmp_path):
    clip = open_clip(encode(tmp_path / "v.h264", numbered(8), rate=24))
    assert clip.fps == 24 and clip.times[-1] == Fraction(7, 24)
    assert numbers_of(clip.frames()) == list(range(8))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "webm"])
def test_a_constant_rate_is_exact(tmp_path, suffix):
    rate = Fraction(24000, 1001)
    codec = {"avi": "mpeg4", "webm": "libvpx"}.get(suffix, "libx264")
    clip = open_clip(encode(tmp_path / f"v.{suffix}", numbered(12), codec, rate))
    assert clip.fps == rate and clip.times[11] == 11 / rate


def test_pictures_before_the_first_key_frame_are_told(tmp_path):
    groups = {"g": "5", "keyint_min": "5", "sc_threshold": "0"}
    source = encode(tmp_path / "whole.mp4", noise(15), options=groups)
    with av.open(str(source)) as old, av.open(str(tmp_path / "v.mkv"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size and number:  # all but the first
                packet.stream = stream
                new.mux(packet)
    with pytest.warns(InputWarning, match="4 pictures that cannot be shown"):
        clip = open_clip(tmp_path / "v.mkv")
    assert clip.count == len(list(clip.frames())) == 10


def test_frames_that_an_edit_list_hides_are_told(tmp_path):
    """Frames before time 0: decoded and not shown, or, before a key frame, not even read."""
    for number, group in enumerate(("8", "1")):
        path = encode(
            tmp_path / f"{number}.mp4",
            numbered(8),
            milliseconds=[40 * (index - 3) for index in range(8)],
            options={"g": group},
            container_options={"avoid_negative_ts": "disabled"},
        )
        with pytest.warns(InputWarning, match="has 3 frames that its edit list hides"):
            clip = open_clip(path)
        assert numbers_of(clip.frames()) == [3, 4, 5, 6, 7]


def test_frames_without_data_are_told(tmp_path):
    """In mp4 a sample of size 0; in avi an empty chunk where a recorder dropped a frame."""
    last = encode(tmp_path / "last.mp4", numbered(6), options={"bf": "0"})
    content = bytearray(last.read_bytes())
    sizes = content.index(b"stsz") + 16
    content[sizes + 4 * 5 : sizes + 4 * 6] = bytes(4)
    last.write_bytes(content)
    third = tmp_path / "third.avi"
    whole = encode(tmp_path / "whole.avi", numbered(6), "mjpeg", pixels="yuvj420p")
    with av.open(str(whole)) as old, av.open(str(third), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size and number != 2:
                packet.stream = stream
                new.mux(packet)
    for path, left in ((last, [0, 1, 2, 3, 4]), (third, [0, 1, 3, 4, 5])):
        with pytest.warns(InputWarning, match="has 1 frames without data; they are left out"):
            clip = open_clip(path)
        assert numbers_of(clip.frames()) == left
        assert [round(24 * time) for time in clip.times] == left


def test_a_file_that_grows_or_shrinks_while_it_is_read(tmp_path):
    path = write_video(tmp_path / "v.mp4", numbered(4))
    clip = open_clip(path)
    for count in (3, 6):
        write_video(path, numbered(count))
        with pytest.raises(UserError, match="changed while it was read"):
            list(clip.frames())


def test_a_frame_that_vanishes_is_named(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(numbered(1)[0]).save(tmp_path / f"{name}.png")
    clip = open_clip(tmp_path)
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png"):
        list(clip.frames())


def test_an_array_of_frames():
    clip = open_clip(numbered(5))
    assert (clip.name, clip.count, clip.fps, clip.pixel_aspect) == ("frames", 5, 24, 1)
    assert clip.times == [Fraction(index, 24) for index in range(5)]
    np.testing.assert_array_equal(np.stack(list(clip.frames())), numbered(5))


def test_progress_can_be_read_by_a_program(monkeypatch, capsys):
    monkeypatch.setenv(PROGRESS, "json")
    assert list(progress(range(1000), "reading", 1000, quiet=True)) == list(range(1000))
    out, error = capsys.readouterr()
    lines = [json.loads(line) for line in error.splitlines()]
    assert out == "" and 1 <= len(lines) < 50
    assert lines[0] == {"stage": "reading", "done": 0, "total": 1000}

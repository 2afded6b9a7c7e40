"""`oclr segment`: videos and folders that cannot be segmented, and those that can in part."""

import json

import cv2
import pytest

from oclr_jax import cli
from oclr_jax.video.writer import video_writer
from tests.cli.commands import refused
from tests.clips import moving_clip, texture, write_frames
from tests.video.videos import encode, packet_places


# Inputs that cannot be segmented: how to make one in a folder, and what is said of it.
def missing(folder):
    return folder / "nothing.mp4"


def no_video(folder):
    (folder / "text.mp4").write_text("this is no video")
    return folder / "text.mp4"


def empty_file(folder):
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def cut_short(folder):
    path = folder / "cut.mp4"
    with video_writer(path, 24, 64, 96) as add_frame:
        for frame in moving_clip(8):
            add_frame(frame)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def no_images(folder):
    (folder / "in").mkdir()
    (folder / "in" / "notes.txt").write_text("no image")
    return folder / "in"


def mixed_sizes(folder):
    write_frames(folder / "in", moving_clip(3))
    cv2.imwrite(str(folder / "in" / "9.png"), texture(0, 64, 90))
    return folder / "in"


def broken_image(folder):
    write_frames(folder / "in", moving_clip(4))
    path = folder / "in" / "2.png"
    path.write_bytes(path.read_bytes()[:-3000])
    return folder / "in"


def no_image_inside(folder):
    write_frames(folder / "in", moving_clip(4))
    (folder / "in" / "3.png").write_text("no image")
    return folder / "in"


def single_frame(folder):
    return write_frames(folder / "in", moving_clip(1))


def tiny_frames(folder):
    return write_frames(folder / "in", moving_clip(3, height=15, width=40))


@pytest.mark.parametrize(
    "make, says",
    [
        (missing, "does not exist"),
        (no_video, "as a video"),
        (empty_file, "as a video"),
        (cut_short, "cut.mp4"),
        (no_images, "holds no images"),
        (mixed_sizes, "differ in size"),
        (broken_image, "2.png is broken"),
        (no_image_inside, "3.png is broken"),
        (single_frame, "single frame"),
        (tiny_frames, "at least 16"),
    ],
)
def test_bad_input(capsys, tmp_path, weights, make, says):
    (tmp_path / "source").mkdir()
    bad = make(tmp_path / "source")
    error = refused(capsys, tmp_path, "segment", bad, tmp_path / "out", "--weights", weights)
    assert says in error


def damaged(folder):
    """A video of 8 frames, each a key frame, of which the fourth is spoiled."""
    path = encode(folder / "damaged.mp4", moving_clip(8), "mjpeg", pixels="yuvj420p")
    content = bytearray(path.read_bytes())
    begin, end = packet_places(path)[3]
    content[begin:end] = bytes(end - begin)
    path.write_bytes(content)
    return path


def test_a_damaged_video_is_refused_or_reduced_to_its_intact_frames(capsys, tmp_path, weights):
    (tmp_path / "source").mkdir()
    video, output = damaged(tmp_path / "source"), tmp_path / "out"
    error = refused(capsys, tmp_path, "segment", video, output, "--weights", weights)
    assert "damaged: 7 of 8 frames are whole" in error and "--keep-damaged" in error
    arguments = [str(video), str(output), "--keep-damaged", "--quiet"]
    assert cli.main(["segment", *arguments, "--weights", str(weights)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("oclr: warning: ") and said.count("\n") == 1
    assert "7 of 8 frames are whole" in said
    assert len(list((output / "masks").iterdir())) == 7
    times = json.loads((output / "objects.json").read_text())["video"]["times"]
    assert times == pytest.approx([i / 24 for i in (0, 1, 2, 4, 5, 6, 7)], abs=1e-5)
    assert cli.main(["flow", *arguments]) == 0
    assert len(list((output / "Flows_gap1").iterdir())) == 6


def test_an_ambiguous_order_of_frames_is_told_in_a_line(capsys, tmp_path, weights):
    folder = write_frames(tmp_path / "in", moving_clip(3))
    for old, new in (("0", "-2"), ("1", "-1.5"), ("2", "-1.25")):
        (folder / f"{old}.png").rename(folder / f"{new}.png")
    command = ["segment", str(folder), str(tmp_path / "out"), "--weights", str(weights), "--quiet"]
    assert cli.main(command) == 0
    said = capsys.readouterr().err
    assert said.startswith("oclr: warning: ") and said.count("\n") == 1
    assert "from -2.png to -1.25.png" in said

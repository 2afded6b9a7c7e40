"""Opening videos: folders of frames, and every input that is refused in one sentence."""

import os
import socket

import av
import numpy as np
import pytest
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.video.reader import open_video
from tests.video.videos import corners, numbered, quadrants, write_video


def test_folder_in_natural_order_with_its_stems(tmp_path):
    frames = numbered(12)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"shot {index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._shot 0.png").write_bytes(b"left by a file manager")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "thumbs.png").mkdir()
    video = open_video(tmp_path)
    assert video.stems() == [f"shot {index}" for index in range(12)]
    assert (video.rate, video.height, video.width, len(video.files)) == (24, 32, 48, 12)
    np.testing.assert_array_equal(np.stack(list(video)), frames)
    np.testing.assert_array_equal(np.stack(list(video)), frames)


def test_folder_of_portrait_jpegs_with_names_in_other_scripts(tmp_path):
    folder = tmp_path / "ordner mit umlaut ü"
    folder.mkdir()
    for name in ("第1.JPG", "第2.jpeg"):
        Image.fromarray(quadrants(64, 32)).save(folder / name, "JPEG", quality=95)
    video = open_video(folder)
    assert (video.height, video.width) == (64, 32)
    assert [corners(frame) for frame in video] == [["r", "g", "b", "-"]] * 2


def test_stems_of_240_characters(tmp_path):
    names = [f"{index}{'x' * 239}" for index in range(3)]
    for name in names:
        Image.fromarray(quadrants()).save(tmp_path / f"{name}.png")
    assert open_video(tmp_path).stems() == names


def images(folder, sizes):
    for index, (height, width) in enumerate(sizes):
        Image.fromarray(quadrants(height, width)).save(folder / f"{index}.png")


def no_path(folder):
    return folder / "none.mp4"


def no_name(folder):
    return ""


def web_address(folder):
    return "https://example.org/clip.mp4"


def star_pattern(folder):
    return folder / "*.png"


def number_pattern(folder):
    return folder / "%05d.png"


def pipe(folder):
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def device(folder):
    return "/dev/zero"


def latin_1_name(folder):
    path = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.mp4")
    with open(path, "wb"):
        return path


def latin_1_frame(folder):
    images(folder, [(32, 48)] * 2)
    (folder / "1.png").rename(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))
    return folder


def text_file(folder):
    (folder / "a.mp4").write_text("this is no video")
    return folder / "a.mp4"


def empty_file(folder):
    (folder / "a.mp4").write_bytes(b"")
    return folder / "a.mp4"


def cut_video(folder):
    write_video(folder / "a.mp4", numbered(4))
    content = (folder / "a.mp4").read_bytes()
    (folder / "a.mp4").write_bytes(content[:200])
    return folder / "a.mp4"


def video_without_frames(folder):
    with av.open(str(folder / "a.avi"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.start_encoding()
    return folder / "a.avi"


def sound_only(folder):
    with av.open(str(folder / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    return folder / "a.wav"


def one_frame(folder):
    return write_video(folder / "a.mp4", numbered(1))


def one_photo(folder):
    images(folder, [(32, 48)])
    return folder / "0.png"


def small_video(folder):
    return write_video(folder / "a.mp4", numbered(3, height=14))


def no_images(folder):
    (folder / "a.txt").write_text("")
    return folder


def one_image(folder):
    images(folder, [(32, 48)])
    return folder


def mixed_sizes(folder):
    images(folder, [(32, 48), (32, 48), (48, 32)])
    return folder


def small_images(folder):
    images(folder, [(32, 12)] * 2)
    return folder


def same_stems(folder):
    images(folder, [(32, 48)] * 2)
    Image.fromarray(quadrants()).save(folder / "1.jpg")
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_path, "does not exist"),
        (no_name, "is empty"),
        (web_address, "https://example.org/clip.mp4 is a URL; download"),
        (star_pattern, "pattern.*give the folder"),
        (number_pattern, "pattern.*give the folder"),
        (pipe, "is a pipe or a device"),
        (device, "is a pipe or a device"),
        (latin_1_name, "not valid UTF-8"),
        (latin_1_frame, "not valid UTF-8"),
        (text_file, "Cannot read .* as a video"),
        (empty_file, "Cannot read .* as a video"),
        (cut_video, "Cannot read .* as a video|no video stream"),
        (video_without_frames, "no frames"),
        (sound_only, "no video stream"),
        (one_frame, "single frame"),
        (one_photo, "single frame"),
        (small_video, "48x14 pixels"),
        (no_images, "holds no images"),
        (one_image, "single frame"),
        (mixed_sizes, r"0\.png is 48x32 and 2\.png is 32x48"),
        (small_images, "12x32 pixels"),
        (same_stems, "two frames of one name"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, make, words):
    path = make(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        open_video(path)
    assert "\n" not in str(caught.value)


def test_a_name_with_a_pattern_in_it_is_a_file_if_it_exists(tmp_path):
    path = write_video(tmp_path / "take [1] 100%d.mp4", numbered(3))
    assert len(list(open_video(path))) == 3


def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(UserError, match="pipe or a device"):
            open_video("s")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_may_not_be_read_is_named(tmp_path, kind):
    path = tmp_path / "hidden"
    if kind == "folder":
        path.mkdir()
        images(path, [(32, 48)] * 2)
    else:
        write_video(path, numbered(3))
    path.chmod(0)
    try:
        with pytest.raises(PermissionError, match="hidden"):
            open_video(path)
    finally:
        path.chmod(0o700)


def test_names_that_no_disk_allows_are_errors_of_the_system(tmp_path):
    with pytest.raises(OSError, match="xxx"):
        open_video(tmp_path / ("x" * 300))

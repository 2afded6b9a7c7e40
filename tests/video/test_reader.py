import struct
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.video.reader import open_video, read_image
from oclr_jax.video.writer import video_writer


def quadrants(height: int = 32, width: int = 48) -> np.ndarray:
    """Red, green / blue, black: every turn of it looks different."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2, 0] = 255
    frame[: height // 2, width // 2 :, 1] = 255
    frame[height // 2 :, : width // 2, 2] = 255
    return frame


def numbered(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames of one grey level each, 20 apart."""
    return np.full((count, height, width, 3), 20 * np.arange(count)[:, None, None, None], np.uint8)


def write_video(path, frames, fps=Fraction(25)):
    with video_writer(path, fps, *frames.shape[1:3]) as write:
        for frame in frames:
            write(frame)


def corners(frame: np.ndarray) -> list[str]:
    """The colours of the four corners, in reading order."""
    names = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (0, 0, 0): "-"}
    picked = [frame[y, x] for y in (6, -7) for x in (6, -7)]
    return [names[tuple(int(value > 127) * 255 for value in colour)] for colour in picked]


def test_video_file(tmp_path):
    path = tmp_path / "a clip: ü 視頻.mp4"
    write_video(path, numbered(7), Fraction(30000, 1001))
    video = open_video(path)
    assert (video.fps, video.height, video.width) == (Fraction(30000, 1001), 32, 48)
    assert video.expected_frames == video.count_frames() == 7
    assert video.stems() == [f"{index:05d}" for index in range(7)]
    first, again = np.stack(list(video)), np.stack(list(video))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, numbered(7), atol=3)


def test_colours_survive_and_two_frames_are_enough(tmp_path):
    write_video(tmp_path / "v.mp4", np.stack([quadrants()] * 2))
    frames = list(open_video(tmp_path / "v.mp4"))
    assert len(frames) == 2
    assert corners(frames[0]) == ["r", "g", "b", "-"]


def turn(path, matrix: tuple[int, int, int, int]):
    """Writes a display matrix (16.16 fixed point) into the track header of an mp4 file."""
    content = bytearray(path.read_bytes())
    # The header box: name, version, two times, id, two reserved, duration, three of 64 bits.
    place = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("matrix", "size", "seen"),
    [
        ((0, 1, -1, 0), (48, 32), ["b", "r", "-", "g"]),  # a quarter clockwise, a phone upright
        ((-1, 0, 0, -1), (32, 48), ["-", "b", "g", "r"]),
        ((0, -1, 1, 0), (48, 32), ["g", "-", "r", "b"]),
    ],
)
def test_rotation_marks_are_applied(tmp_path, matrix, size, seen):
    path = tmp_path / "phone.mp4"
    write_video(path, np.stack([quadrants()] * 3))
    turn(path, matrix)
    video = open_video(path)
    assert (video.height, video.width) == size
    for frame in video:
        assert frame.shape[:2] == size
        assert frame.flags.c_contiguous
        assert corners(frame) == seen


def test_variable_frame_rate_gives_every_frame_and_the_mean_rate(tmp_path):
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for frame, milliseconds in zip(numbered(5), (0, 30, 200, 210, 500), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    video = open_video(path)
    np.testing.assert_allclose(np.stack(list(video)), numbered(5), atol=4)
    assert 5 <= video.fps <= 12


@pytest.mark.parametrize("pixels", ["gray", "yuva420p", "gray16le", "rgb48le"])
def test_grey_alpha_and_deep_video(tmp_path, pixels):
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
        for frame in numbered(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(np.stack(list(open_video(path))), numbered(3), atol=2)


def test_folder_in_natural_order_with_its_stems(tmp_path):
    frames = numbered(12)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"shot {index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._shot 0.png").write_bytes(b"left by a file manager")
    video = open_video(tmp_path)
    assert video.stems() == [f"shot {index}" for index in range(12)]
    assert (video.fps, video.height, video.width, video.count_frames()) == (24, 32, 48, 12)
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


def test_images_of_every_depth_become_rgb_bytes(tmp_path):
    frame = quadrants()
    deep = frame.astype(np.uint16) * 257
    grey, half = frame[..., 0], np.full((32, 48, 1), 128, np.uint8)
    cv2.imwrite(str(tmp_path / "rgb16.png"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / "rgba16.png"), np.dstack([deep[..., ::-1], half]).astype(np.uint16))
    cv2.imwrite(str(tmp_path / "grey16.png"), deep[..., 0])
    Image.fromarray(np.dstack([frame, half])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, half])).save(tmp_path / "la.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    Image.fromarray(frame).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(grey).convert("1").save(tmp_path / "bits.png")
    for file in tmp_path.iterdir():
        image = read_image(file)
        assert image.dtype == np.uint8
        colour = file.stem in ("rgb16", "rgba16", "rgba", "palette")
        expected = frame if colour else np.dstack([grey] * 3)
        np.testing.assert_allclose(image, expected, atol=2, err_msg=file.name)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_orientation_marks_of_cameras_are_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    for name in "ab":
        Image.fromarray(quadrants()).save(tmp_path / f"{name}.{suffix}", exif=exif)
    video = open_video(tmp_path)
    assert (video.height, video.width) == (48, 32)
    assert corners(next(iter(video))) == ["b", "r", "-", "g"]


def images(folder, sizes):
    for index, (height, width) in enumerate(sizes):
        Image.fromarray(quadrants(height, width)).save(folder / f"{index}.png")


def no_path(folder):
    return folder / "none.mp4"


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
    write_video(folder / "a.mp4", numbered(1))
    return folder / "a.mp4"


def small_video(folder):
    write_video(folder / "a.mp4", numbered(3, height=14))
    return folder / "a.mp4"


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
        (text_file, "Cannot read .* as a video"),
        (empty_file, "Cannot read .* as a video"),
        (cut_video, "Cannot read .* as a video|no video stream"),
        (video_without_frames, "no frames"),
        (sound_only, "no video stream"),
        (one_frame, "single frame"),
        (small_video, "48x14 pixels"),
        (no_images, "no jpg or png"),
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


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_broken_image_is_named(tmp_path, suffix, share, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name in "abc":
        Image.fromarray(noise).save(tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"b.{suffix}").read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=rf"b\.{suffix} is broken"):
        list(open_video(tmp_path))
    assert capfd.readouterr().err == ""


def test_damage_in_the_middle_of_a_video_never_escapes_as_another_error(tmp_path):
    path = tmp_path / "a.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3)).astype(np.uint8)
    write_video(path, frames)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    for start, stop in [(middle, middle + 5000), (middle, len(content))]:
        damaged = content.copy()
        damaged[start:stop] = bytes(len(damaged[start:stop]))
        path.write_bytes(damaged)
        try:
            assert all(frame.shape == (64, 64, 3) for frame in open_video(path))
        except UserError as error:
            assert "damaged" in str(error) or "Cannot read" in str(error)

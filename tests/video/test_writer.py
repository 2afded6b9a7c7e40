from fractions import Fraction

import av
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.video.clip import open_clip
from oclr_jax.video.reader import open_video
from oclr_jax.video.times import even_times
from oclr_jax.video.writer import video_writer


def waves(count: int, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] / 9
    shades = [np.sin(x + index / 3) * np.cos(y) * 100 + 128 for index in range(count)]
    return np.repeat(np.stack(shades)[..., None], 3, axis=-1).astype(np.uint8)


def write(path, frames, fps=24):
    with video_writer(path, fps, *frames.shape[1:3]) as add:
        for frame in frames:
            add(frame)


def test_the_file_plays_in_browsers(tmp_path):
    path = tmp_path / "new folder" / "ü.mp4"
    write(path, waves(5, 48, 64))
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    content = path.read_bytes()
    # The index lies before the pictures, so that playing starts before all is loaded.
    assert content.index(b"moov") < content.index(b"mdat")
    assert [file.name for file in path.parent.iterdir()] == ["ü.mp4"]


@pytest.mark.parametrize("fps", [24, 12.5, Fraction(30000, 1001), 29.97, 1])
def test_the_frame_rate_is_kept(tmp_path, fps):
    write(tmp_path / "v.mp4", waves(6, 32, 32), fps)
    clip = open_clip(tmp_path / "v.mp4")
    assert float(clip.fps) == pytest.approx(float(fps), rel=1e-4)
    assert clip.count == 6


def test_every_frame_is_shown_at_its_time(tmp_path):
    times = [Fraction(ms, 1000) for ms in (0, 33, 62, 103, 104, 900)]
    with video_writer(tmp_path / "v.mp4", Fraction(5, 9) * 10, 32, 32, times) as add:
        for frame in waves(6, 32, 32):
            add(frame)
    clip = open_clip(tmp_path / "v.mp4")
    np.testing.assert_allclose([float(t) for t in clip.times], [float(t) for t in times], atol=2e-5)
    assert float(clip.fps) == pytest.approx(5 / 0.9)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert 0.9 <= container.duration / 1e6 < 2


def test_times_of_a_constant_rate_change_no_byte(tmp_path):
    rate = Fraction(30000, 1001)
    write(tmp_path / "a.mp4", waves(6, 32, 32), rate)
    with video_writer(tmp_path / "b.mp4", rate, 32, 32, even_times(6, rate)) as add:
        for frame in waves(6, 32, 32):
            add(frame)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_pixels_that_are_not_square(tmp_path):
    with video_writer(tmp_path / "v.mp4", 24, 32, 32, pixel_aspect=Fraction(16, 11)) as add:
        for frame in waves(2, 32, 32):
            add(frame)
    assert open_video(tmp_path / "v.mp4").pixel_aspect == Fraction(16, 11)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)


def test_more_frames_than_times_are_refused(tmp_path):
    opened = video_writer(tmp_path / "v.mp4", 24, 32, 32, [Fraction(0)])
    with pytest.raises(ValueError, match="1 frames only"), opened as add:
        for frame in waves(2, 32, 32):
            add(frame)


@pytest.mark.parametrize(("height", "width"), [(33, 50), (32, 51), (47, 33)])
def test_odd_sides_grow_by_one(tmp_path, height, width):
    frames = waves(3, height, width)
    write(tmp_path / "v.mp4", frames)
    read = np.stack(list(open_video(tmp_path / "v.mp4")))
    assert read.shape[1:3] == (height + height % 2, width + width % 2)
    assert np.abs(read[:, :height, :width].astype(int) - frames).mean() < 3


def test_the_same_frames_give_the_same_bytes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (8, 50, 70, 3)).astype(np.uint8)
    for name in "abc":
        write(tmp_path / name / "v.mp4", frames)
    assert len({(tmp_path / name / "v.mp4").read_bytes() for name in "abc"}) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_is_interrupted_leaves_nothing(tmp_path, error):
    with pytest.raises(error), video_writer(tmp_path / "v.mp4", 24, 32, 32) as add:
        add(waves(1, 32, 32)[0])
        raise error
    assert not list(tmp_path.iterdir())


def test_frames_of_another_size_or_none_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError), video_writer(tmp_path / "v.mp4", 24, 32, 32) as add:
        add(waves(1, 32, 48)[0])
    with pytest.raises(ValueError), video_writer(tmp_path / "v.mp4", 24, 32, 32):
        pass
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write(tmp_path / "file" / "v.mp4", waves(2, 32, 32))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource", reason="file size limits exist on Unix only")
    noise = np.random.default_rng(0).integers(0, 256, (10, 128, 128, 3)).astype(np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match="free some space"):
            write(tmp_path / "v.mp4", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())

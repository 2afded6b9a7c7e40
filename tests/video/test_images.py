"""Image files of every depth, orientation and format as RGB frames."""

import cv2
import numpy as np
import pytest
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.video.images import image_size, read_image
from oclr_jax.video.reader import open_video
from tests.video.videos import corners, quadrants

# Exif orientation: the corners of `quadrants` as they are to be seen.
ORIENTATIONS = {
    1: ["r", "g", "b", "-"],
    2: ["g", "r", "-", "b"],
    3: ["-", "b", "g", "r"],
    4: ["b", "-", "r", "g"],
    5: ["r", "b", "g", "-"],
    6: ["b", "r", "-", "g"],
    7: ["-", "g", "b", "r"],
    8: ["g", "-", "r", "b"],
}


def xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


@pytest.mark.parametrize("code", ORIENTATIONS)
@pytest.mark.parametrize(
    ("suffix", "mark"), [("jpg", "exif"), ("jpg", "xmp"), ("png", "exif"), ("tif", "exif")]
)
def test_every_orientation_mark_is_applied(tmp_path, suffix, mark, code):
    exif = Image.Exif()
    exif[0x0112] = code
    marked = {"exif": exif} if mark == "exif" else {"xmp": xmp(code)}
    for name in "ab":
        Image.fromarray(quadrants()).save(tmp_path / f"{name}.{suffix}", **marked)
    video = open_video(tmp_path)
    size = (48, 32) if code >= 5 else (32, 48)
    assert (video.height, video.width) == image_size(tmp_path / f"a.{suffix}") == size
    for frame in video:
        assert frame.shape == (*size, 3) and frame.flags.c_contiguous
        assert corners(frame) == ORIENTATIONS[code]


def test_images_of_every_depth_become_rgb_bytes(tmp_path):
    frame = quadrants()
    deep = frame.astype(np.uint16) * 257
    grey, half = frame[..., 0], np.full((32, 48, 1), 128, np.uint8)
    for suffix in ("png", "tif"):
        cv2.imwrite(str(tmp_path / f"rgb16.{suffix}"), deep[..., ::-1])
        cv2.imwrite(str(tmp_path / f"grey16.{suffix}"), deep[..., 0])
    cv2.imwrite(str(tmp_path / "rgba16.png"), np.dstack([deep[..., ::-1], half]).astype(np.uint16))
    for suffix in ("png", "tif", "bmp"):
        Image.fromarray(frame).save(tmp_path / f"rgb.{suffix}")
        Image.fromarray(grey).save(tmp_path / f"grey.{suffix}")
        Image.fromarray(frame).quantize(8).save(tmp_path / f"palette.{suffix}")
        Image.fromarray(grey).convert("1").save(tmp_path / f"bits.{suffix}")
    Image.fromarray(np.dstack([frame, half])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([grey, half])).save(tmp_path / "la.png")
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    for file in tmp_path.iterdir():
        image = read_image(file)
        assert image.dtype == np.uint8
        colour = file.stem in ("rgb", "rgb16", "rgba16", "rgba", "palette")
        expected = frame if colour else np.dstack([grey] * 3)
        np.testing.assert_allclose(image, expected, atol=2, err_msg=file.name)


@pytest.mark.parametrize("suffix", ["tif", "tiff", "bmp", "TIF"])
def test_folders_of_microscopes(tmp_path, suffix):
    for name in ("t0", "t1", "t10"):
        Image.fromarray(quadrants()).save(tmp_path / f"{name}.{suffix}")
    video = open_video(tmp_path)
    assert video.stems() == ["t0", "t1", "t10"]
    assert [corners(frame) for frame in video] == [["r", "g", "b", "-"]] * 3


def pages(path):
    first, *rest = [Image.fromarray(quadrants())] * 3
    first.save(path, save_all=True, append_images=rest)


def floating_point(path):
    Image.fromarray(np.full((32, 48), 0.5, np.float32)).save(path)


def thirty_two_bits(path):
    Image.fromarray(np.full((32, 48), 70000, np.int32)).save(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [(pages, "3 pages"), (floating_point, "8-bit nor 16"), (thirty_two_bits, "8-bit nor 16")],
)
def test_tiff_files_that_would_be_read_wrongly_are_refused(tmp_path, make, words):
    make(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif.*{words}|{words}.*a\.tif"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_a_broken_image_is_named(tmp_path, suffix, share, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for name in "abc":
        Image.fromarray(noise).save(tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"b.{suffix}").read_bytes()
    (tmp_path / f"b.{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=rf"b\.{suffix} is broken"):
        list(open_video(tmp_path))
    assert capfd.readouterr().err == ""


def test_an_image_above_the_limit_of_pillow_is_one_sentence(tmp_path, monkeypatch):
    Image.fromarray(quadrants()).save(tmp_path / "a.png")
    for limit in (1000, 500):  # Pillow warns above its limit and fails above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UserError, match=r"a\.png is too large.*shrink") as caught:
            read_image(tmp_path / "a.png")
        assert "\n" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_not_called_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")


def test_a_frame_that_changes_size_after_opening_is_named(tmp_path):
    for name in "ab":
        Image.fromarray(quadrants()).save(tmp_path / f"{name}.png")
    video = open_video(tmp_path)
    Image.fromarray(quadrants(48, 32)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png is 32x48"):
        list(video)

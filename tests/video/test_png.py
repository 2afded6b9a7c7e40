import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.video.palette import DAVIS_PALETTE
from oclr_jax.video.png import read_ids, write_ids, write_png


def test_the_palette_is_that_of_davis():
    # DAVIS 2017, the first five objects, and some of PASCAL VOC's that follow the same rule.
    expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]]
    np.testing.assert_array_equal(DAVIS_PALETTE[:6], expected)
    np.testing.assert_array_equal(
        DAVIS_PALETTE[[8, 15, 20]], [[64, 0, 0], [192, 128, 128], [0, 64, 128]]
    )
    assert len(np.unique(DAVIS_PALETTE, axis=0)) == 256


@settings(max_examples=30, deadline=None)
@given(ids=arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_round_trip(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("png") / "masks" / "ü 1.png"
    write_ids(path, ids)
    np.testing.assert_array_equal(read_ids(path), ids)
    with Image.open(path) as image:
        assert image.mode == "P"
        # Any viewer shows the colours of the palette.
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), DAVIS_PALETTE[ids])
    # 8 bits a pixel, however few the ids, as the tools of DAVIS expect.
    assert path.read_bytes()[24:26] == bytes([8, 3])
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_grey_masks_keep_their_values(tmp_path):
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    write_png(tmp_path / "grey.png", mask)
    Image.fromarray(mask).convert("1").save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_ids(tmp_path / "grey.png"), mask)
    np.testing.assert_array_equal(read_ids(tmp_path / "bits.png"), mask)


def test_pictures_keep_their_colours(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    write_png(tmp_path / "a.png", picture)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_what_is_no_mask_is_refused(tmp_path):
    write_png(tmp_path / "rgb.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    write_ids(
        tmp_path / "cut.png", np.random.default_rng(0).integers(0, 9, (60, 60)).astype(np.uint8)
    )
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:400])
    for name in ("rgb.png", "text.png", "cut.png", "none.png"):
        with pytest.raises(UserError, match=name):
            read_ids(tmp_path / name)

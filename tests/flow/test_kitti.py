import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from oclr_jax.errors import UserError
from oclr_jax.flow.kitti import read_kitti, read_kitti_size, write_kitti

VALUES = st.integers(-51190, 51190).map(lambda hundredths: np.float32(hundredths / 100))


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, (3, 5, 2), elements=VALUES))
def test_what_is_written_is_read_to_a_64th(tmp_path_factory, flow):
    path = tmp_path_factory.mktemp("kitti") / "0.png"
    write_kitti(path, flow)
    found, valid = read_kitti(path)
    assert read_kitti_size(path) == (3, 5)
    assert valid.all()
    np.testing.assert_allclose(found, flow, atol=1 / 128 + 1e-6)


def test_the_file_is_laid_out_as_the_benchmark_has_it(tmp_path):
    flow = np.zeros((2, 3, 2), np.float32)
    flow[0, 1] = (1.5, -2)
    flow[1, 2] = (600, 0)  # cannot be stored
    valid = np.ones((2, 3), bool)
    valid[1, 0] = False
    write_kitti(tmp_path / "a" / "0.png", flow, valid)
    stored = cv2.imread(str(tmp_path / "a" / "0.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]  # to RGB
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored[0, 1], [2**15 + 96, 2**15 - 128, 1])
    np.testing.assert_array_equal(stored[1, 0], [0, 0, 0])
    np.testing.assert_array_equal(stored[1, 2], [0, 0, 0])
    found, known = read_kitti(tmp_path / "a" / "0.png")
    np.testing.assert_array_equal(known, [[True, True, True], [False, True, False]])
    np.testing.assert_array_equal(found[~known], 0)


def test_what_is_not_finite_is_written_as_unknown(tmp_path):
    flow = np.ones((2, 3, 2), np.float32)
    flow[0, 0, 1], flow[1, 1, 0] = np.nan, np.inf
    write_kitti(tmp_path / "0.png", flow)
    found, known = read_kitti(tmp_path / "0.png")
    assert known.tolist() == [[False, True, True], [True, False, True]]
    assert (found[known] == 1).all()


def test_flow_that_is_mostly_too_long_for_the_format_is_refused(tmp_path):
    flow = np.zeros((2, 4, 2), np.float32)
    flow[0] = 600
    write_kitti(tmp_path / "0.png", flow)
    flow[1, 0] = 600
    with pytest.raises(UserError, match="write .flo files"):
        write_kitti(tmp_path / "1.png", flow)
    assert not (tmp_path / "1.png").exists()


def test_what_is_no_kitti_file_is_refused(tmp_path):
    path = tmp_path / "0.png"
    with pytest.raises(UserError, match="Cannot read"):
        read_kitti(path)
    cv2.imwrite(str(path), np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(UserError, match="16-bit"):
        read_kitti(path)
    write_kitti(path, np.random.default_rng(0).normal(size=(40, 50, 2)).astype(np.float32))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="damaged"):
        read_kitti(path)

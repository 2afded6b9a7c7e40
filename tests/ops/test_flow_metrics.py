import numpy as np

from oclr_jax.ops.flow_metrics import end_point_error, fl_all, photometric_error
from tests.clips import texture


def test_end_point_error_is_the_mean_distance():
    truth = np.zeros((2, 3, 2), np.float32)
    flow = truth.copy()
    flow[0, 0] = (3, 4)
    assert np.isclose(end_point_error(flow, truth), 5 / 6)
    valid = np.zeros((2, 3), bool)
    assert np.isnan(end_point_error(flow, truth, valid))
    valid[0] = True
    assert np.isclose(end_point_error(flow, truth, valid), 5 / 3)


def test_an_outlier_is_above_three_pixels_and_five_percent():
    truth = np.array([[[0, 0], [0, 0], [100, 0], [100, 0], [40, 0]]], np.float32)
    error = np.array([[[3, 0], [0, 3.01], [4, 0], [0, 5.01], [3.01, 0]]], np.float32)
    wrong = [False, True, False, True, True]
    assert np.isclose(fl_all(truth + error, truth), 60)
    for index, expected in enumerate(wrong):
        valid = np.arange(5)[None] == index
        assert fl_all(truth + error, truth, valid) == 100 * expected
    assert np.isnan(fl_all(truth, truth, np.zeros((1, 5), bool)))


def test_true_flow_explains_the_frames():
    wide = texture(0, 40, 60)
    first, second = wide[:, 4:54], wide[:, :50]  # everything goes right by 4
    flow = np.zeros((40, 50, 2), np.float32)
    flow[..., 0] = 4
    before, after = photometric_error(first, second), photometric_error(first, second, flow)
    assert after < 0.3 * before  # what moved out of the frame stays unexplained
    assert photometric_error(first, second, -flow) > 0.8 * before
    assert photometric_error(first, first) == 0

"""Unknown flow vectors take the value of the nearest known one."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from oclr_jax.errors import UserError
from oclr_jax.flow import DIS, FlowFolder, flow_path, gap_flows, stream_flow, write_flo
from oclr_jax.flow.kitti import write_kitti
from oclr_jax.flow.unknown import fill_unknown, known_vectors
from oclr_jax.oclr.predict import FlowWindow, predict_layers
from oclr_jax.ops.metrics import jaccard
from oclr_jax.video.clip import open_clip
from tests.clips import motion_segmenter, moving_clip, square_masks


def test_known_flow_is_returned_as_it_is():
    flow = np.ones((3, 4, 2), np.float32)
    assert fill_unknown(flow, known_vectors(flow)) is flow


@pytest.mark.parametrize("share", [0.01, 0.3, 0.95])
def test_the_nearest_known_vector_is_taken(share):
    rng = np.random.default_rng(0)
    flow = rng.normal(size=(40, 60, 2)).astype(np.float32)
    valid = rng.random((40, 60)) > share
    place = np.stack(np.meshgrid(np.arange(60), np.arange(40)), -1).astype(np.float32)
    filled = fill_unknown(place, valid)
    np.testing.assert_array_equal(filled[valid], place[valid])
    sources = filled.astype(int)
    assert valid[sources[..., 1], sources[..., 0]].all()
    # OpenCV's distance is an approximation, of a few percent.
    distance = np.linalg.norm(filled - place, axis=-1)
    assert (distance <= 1.05 * distance_transform_edt(~valid) + 1e-6).all()
    np.testing.assert_array_equal(fill_unknown(flow, valid), fill_unknown(flow, valid))


def test_without_any_known_vector_there_is_nothing_to_fill_in():
    with pytest.raises(ValueError, match="no vector"):
        fill_unknown(np.ones((3, 4, 2), np.float32), np.zeros((3, 4), bool))


def test_estimators_must_give_finite_flow():
    class Broken(DIS):
        def __call__(self, first, second):
            flow = super().__call__(first, second)
            flow[0, 3, 5, 1] = np.nan
            return flow

    frames = np.zeros((3, 32, 48, 3), np.uint8)
    with pytest.raises(UserError, match="'dis'.*not finite"):
        gap_flows(frames, (1, -1), Broken())


@pytest.mark.parametrize("format", ["flo", "kitti"])
def test_unknown_flow_neither_moves_nor_empties_the_masks(tmp_path, format):
    """Holes on a moving square, at its border and in the background leave the masks in place."""
    clip, truth = open_clip(moving_clip(6)), square_masks(6)
    valid = np.ones((64, 96), bool)
    valid[6:12, 14:20] = valid[30:40, 40:60] = valid[:3] = False
    for gap in (1, -1):
        for frame in range(max(-gap, 0), 6 - max(gap, 0)):
            flow = np.zeros((64, 96, 2), np.float32)
            flow[truth[frame] == 1, 0], flow[truth[frame] == 2, 0] = 2 * gap, -2 * gap
            path = flow_path(tmp_path, gap, clip.stems[frame])
            if format == "kitti":
                write_kitti(path.with_suffix(".png"), flow, valid)
            else:
                flow[~valid] = 1e10
                write_flo(path, flow)
    source = FlowFolder(tmp_path, clip.stems)
    flow = np.stack([found.flow for found in stream_flow(clip, source, (1, -1), (64, 96))])
    window = FlowWindow(0, 0, 6, flow, np.zeros((6, 64, 96, 3), np.uint8))
    probability = predict_layers(motion_segmenter(), window).probability
    for id in (1, 2):
        assert jaccard(probability[..., id] > 0.5, truth == id).mean() > 0.98

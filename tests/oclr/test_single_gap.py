"""Weights of a model that sees flow at one gap only, from the video to the scores."""

import dataclasses

import numpy as np
import pytest

from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_dataset
from oclr_jax.evaluate.predictions import predict_sequence, sequence_flows, with_gap
from oclr_jax.evaluate.synthetic import SyntheticSequence, score_synthetic
from oclr_jax.flow import from_settings, gap_flows, resize_flow
from oclr_jax.models.oclr import parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr.predict import load_segmenter
from oclr_jax.pipeline import segment_video
from oclr_jax.weights.file import save_weights
from tests.clips import CONFIG, INFO, motion_segmenter, moving_clip, square_masks
from tests.evaluate.test_run import make_dataset


@pytest.fixture(scope="module", params=[(1,), (-1,)], ids=str)
def weights(request, tmp_path_factory):
    config, rng = dataclasses.replace(CONFIG, gaps=request.param), np.random.default_rng(0)
    shapes = parameter_shapes(config)
    params = {name: 0.1 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("weights") / "one.safetensors"
    save_weights(path, unflatten(params), dataclasses.replace(INFO, model=config), "float32")
    return path


def test_a_video_is_segmented(weights):
    frames = moving_clip(8)
    result = segment_video(frames, weights)
    (gap,) = result.record["settings"]["gaps"]
    flow = gap_flows(frames, (gap,), from_settings(INFO.flow))
    np.testing.assert_array_equal(result.flow, resize_flow(flow, 32, 48))


def test_a_dataset_is_scored_at_any_gap_in_any_precision(weights, tmp_path):
    root = make_dataset(tmp_path)
    for gap, precision in ((1, None), (2, "bfloat16")):
        options = {"gap": gap, "precision": precision, "protocols": ["paper", "union"]}
        report = evaluate_dataset("folder", root, weights, **options)
        assert report["gap"] == gap and set(report["mean"]) == {"paper", "union"}
        assert report["precision"] == (precision or "float32")  # on a CPU


def test_flow_that_is_stored_with_a_dataset_is_taken_at_that_gap(weights):
    frames, segmenter = moving_clip(8), with_gap(load_segmenter(weights), 2)
    stored = gap_flows(frames, (2, -2), from_settings(INFO.flow))
    seen = []

    def predict(params, flow):
        seen.append(np.asarray(flow[0]))
        return segmenter.predict(params, flow)

    sequence = BenchmarkSequence(
        name="a",
        folder="a",
        stems=[str(number) for number in range(8)],
        frame=lambda number: frames[number],
        annotated=[0],
        annotation=lambda number: np.ones((64, 96), np.uint8),
        flow=lambda: stored,
    )
    spy = dataclasses.replace(segmenter, predict=predict)
    predict_sequence(spy, sequence, sequence_flows(spy, sequence, None), ["paper"])
    (gap,) = segmenter.info.model.gaps
    channels = slice(0, 2) if gap == 2 else slice(2, 4)
    expected = resize_flow(stored[..., channels], 32, 48)
    np.testing.assert_array_equal(seen[0], expected[:6])


def test_synthetic_data_is_scored(weights):
    truth = np.stack([square_masks(8) == id for id in (1, 2)], axis=-1)
    flow = gap_flows(moving_clip(8), (1, -1), from_settings(INFO.flow))
    sequence = SyntheticSequence(
        *("a", lambda: flow, lambda: truth, lambda: truth),
        stems=[str(frame) for frame in range(len(flow))],
        frame=lambda frame: np.zeros((32, 48, 3), np.uint8),
    )
    assert 0 <= score_synthetic(load_segmenter(weights), sequence)["paper"]["J"] <= 1


def test_gaps_in_proportion():
    def gaps(own, gap):
        model = dataclasses.replace(CONFIG, gaps=own)
        segmenter = motion_segmenter()
        info = dataclasses.replace(segmenter.info, model=model)
        return with_gap(dataclasses.replace(segmenter, info=info), gap).info.model.gaps

    assert gaps((1, -1), 3) == (3, -3)
    assert gaps((-2,), 1) == (-1,)
    assert gaps((1, -1, 2, -2), 2) == (2, -2, 4, -4)
    with pytest.raises(UserError, match="gaps 2, 3 cannot be used at gap 1; give --gap 2"):
        gaps((2, 3), 1)

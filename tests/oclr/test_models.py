"""The choice of the model: baselines take the same path as OCLR and give the same output."""

import dataclasses

import cv2
import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_dataset, format_table
from oclr_jax.evaluate.table import describe
from oclr_jax.models.baselines import mask_rcnn, motion_grouping
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr.predict import (
    _LOADERS,
    FlowWindow,
    load_segmenter,
    predict_layers,
    with_stored_gaps,
)
from oclr_jax.pipeline import segment_video
from oclr_jax.types import MODELS
from oclr_jax.video.png import write_ids
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights
from tests.clips import motion_segmenter, texture, write_frames

FRAMES, HEIGHT, WIDTH = 6, 96, 160


def moving_square() -> tuple[np.ndarray, np.ndarray]:
    """RGB and masks: the camera pans to the right and a square moves to the left."""
    background = cv2.resize(texture(0, HEIGHT, WIDTH + 40), (WIDTH + 40, HEIGHT))
    video, masks = [], np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    for i in range(FRAMES):
        frame = background[:, 2 * i : 2 * i + WIDTH].copy()
        left = 90 - 5 * i
        frame[30:66, left : left + 40] = texture(1, 36, 40)
        masks[i, 30:66, left : left + 40] = 1
        video.append(frame)
    return np.stack(video), masks


@pytest.fixture(scope="module")
def motion_grouping_weights(tmp_path_factory):
    """Random weights."""
    config = motion_grouping.MotionGroupingConfig(
        *(2, "colors", 32, 48, (4, 4, 8), 4, 1), frames=4, gaps=(1, -1, 2, -2)
    )
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    flow = {"estimator": "dis", "preset": "ultrafast", "height": 48, "width": 80}
    info = WeightsInfo(config, "random", flow=flow, data_version="none")
    rng, shapes = np.random.default_rng(0), motion_grouping.parameter_shapes(config)
    flat = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_weights(path, unflatten(flat), info, dtype="float32")
    return path


@pytest.fixture(scope="module")
def mask_rcnn_weights(tmp_path_factory):
    """Random weights of a model that also sees frames."""
    config = mask_rcnn.MaskRCNNConfig(
        inputs="rgb+flow", height=32, width=64, stem=4, blocks=(1, 1, 1, 1), features=4, hidden=8,
        candidates=8, proposals=8, min_score=0.0, frames=4,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    flow = {"estimator": "dis", "preset": "ultrafast", "height": 48, "width": 80}
    info = WeightsInfo(config, "random", flow=flow, data_version="none")
    rng, shapes = np.random.default_rng(0), mask_rcnn.parameter_shapes(config)
    flat = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    flat |= {n: x - 0.5 for n, x in flat.items() if n.endswith("kernel")}
    save_weights(path, unflatten(flat), info, dtype="float32")
    return path


def test_mask_rcnn_takes_the_same_path(tmp_path, mask_rcnn_weights):
    arguments = {"model": "mask-rcnn", "weights": mask_rcnn_weights}
    result = segment_video(moving_square()[0], **arguments)
    settings = result.record["settings"]
    assert (settings["model"], settings["weights"]) == ("mask-rcnn", "random")
    report = evaluate_dataset("folder", dataset_folder(tmp_path), **arguments)
    assert all(0 <= row["J"] <= 1 for row in report["mean"].values())
    with pytest.raises(UserError, match="runs in one pass"):
        load_segmenter(mask_rcnn_weights, passes=2, model="mask-rcnn")


def test_frames_reach_a_model_that_sees_them():
    seen = []

    def predict(_, flow, frames):
        seen.append((flow.shape, frames))
        return np.zeros((1, *flow.shape[1:4], 1), np.float32), np.zeros((1, 1), np.float32)

    segmenter = dataclasses.replace(motion_segmenter(), predict=predict, sees_frames=True)
    images = np.arange(2 * 32 * 48 * 3).reshape(2, 32, 48, 3).astype(np.uint8)
    window = FlowWindow(0, 0, 2, np.zeros((6, 32, 48, 4), np.float32), images)
    assert predict_layers(segmenter, window).probability.shape == (2, 32, 48, 1)
    ((shape, frames),) = seen
    assert shape == (1, 6, 32, 48, 4) and frames.shape == (1, 6, 32, 48, 3)
    np.testing.assert_array_equal(frames[0], images[[0, 1, 1, 1, 1, 1]])


def dataset_folder(folder):
    video, masks = moving_square()
    write_frames(folder / "JPEGImages" / "pan", video)
    (folder / "Annotations" / "pan").mkdir(parents=True)
    for number, mask in enumerate(masks):
        write_ids(folder / "Annotations" / "pan" / f"{number}.png", mask)
    return folder


def test_motion_grouping_takes_the_same_path(tmp_path, motion_grouping_weights):
    arguments = {"model": "motion-grouping", "weights": motion_grouping_weights}
    result = segment_video(moving_square()[0], **arguments)
    settings = result.record["settings"]
    assert (settings["model"], settings["weights"]) == ("motion-grouping", "random")
    assert settings["gaps"] == [1, -1, 2, -2]
    protocols = ["motion-grouping", "motion-grouping-single", "paper", "sequence-oracle"]
    folder = dataset_folder(tmp_path)
    report = evaluate_dataset("folder", folder, **arguments, protocols=protocols)
    assert report["scored_on"]["motion-grouping"] == "flows"
    assert all(0 <= report["mean"][name]["J"] <= 1 for name in protocols)
    assert "model motion-grouping, weights random in float32" in format_table(report)
    for wrong in ({"model": "geometric"}, {"results": folder}):
        with pytest.raises(UserError, match="give --model motion-grouping"):
            evaluate_dataset("folder", folder, **wrong, protocols=["motion-grouping"])


def test_a_missing_flow_is_that_of_the_opposite_gap_unchanged(monkeypatch, motion_grouping_weights):
    from oclr_jax.evaluate.predictions import _flow_slots
    from oclr_jax.flow import FrameFlow

    segmenter = load_segmenter(motion_grouping_weights, model="motion-grouping")
    seen = []

    def masks(_, flow):
        seen.append(flow[0, 0, 0])
        return np.zeros((1, 4, 32, 48, 2), np.float32)

    segmenter = dataclasses.replace(segmenter, flow_masks=masks)
    # As the flow of a clip of four frames is streamed: negated where there is no neighbour.
    values = np.array([[1, -1], [-1, 1], [2, -2], [-2, 2]], np.float32)
    flows = [
        FrameFlow(0, i, np.tile(values.ravel(), (32, 48, 1)), np.zeros((32, 48, 3), np.uint8))
        for i in range(4)
    ]
    _flow_slots(segmenter, flows, 4)
    signs = [[1, -1, 1, -1], [1, 1, 1, -1], [1, 1, -1, 1], [-1, 1, -1, 1]]
    np.testing.assert_array_equal(np.array(seen)[:, ::2], signs * values[:, 0])


def test_models_of_single_flows_take_the_gaps_that_are_stored(motion_grouping_weights):
    segmenter = load_segmenter(motion_grouping_weights, model="motion-grouping")
    assert with_stored_gaps(segmenter, (1, -1)).info.model.gaps == (1, -1)
    oclr = load_segmenter()
    assert with_stored_gaps(oclr, (1,)) is oclr


def test_a_baseline_segments_a_video():
    video, masks = moving_square()
    result = segment_video(video, model="geometric")
    found, truth = result.masks > 0, masks > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.6
    settings = result.record["settings"]
    assert settings["model"] == settings["weights"] == "geometric"
    assert settings["flow"]["estimator"] == "dis"


def test_a_baseline_is_evaluated(tmp_path, capsys):
    protocols = ["paper", "sequence-oracle"]
    arguments = {"flow": "dis:fast", "protocols": protocols, "model": "geometric"}
    report = evaluate_dataset("folder", dataset_folder(tmp_path), **arguments)
    assert all(report["mean"][name]["J"] > 0.5 for name in protocols)
    assert report["model"] == "geometric" and "model geometric, flow dis" in format_table(report)
    assert "warning" not in capsys.readouterr().err, "it was trained on no flow"
    assert "weights oclr" in describe({**report, "model": "oclr", "weights": "oclr"})


def test_the_option_on_both_commands():
    assert set(_LOADERS) == set(MODELS)
    for command in (["segment", "a", "b"], ["evaluate", "--dataset", "folder", "--data", "a"]):
        assert cli.build_parser().parse_args(command).model == "oclr"
        options = cli.build_parser().parse_args([*command, "--model", "geometric"])
        assert options.model == "geometric"


def test_the_weights_have_their_own_inference(tmp_path):
    """Of the weights: passes and joined parts; a number of passes that is given comes first."""
    shipped = load_segmenter()
    assert (shipped.passes, shipped.join_parts) == (2, True)
    assert load_segmenter(passes=1).passes == 1
    published = dataclasses.replace(shipped.info.model, passes=1, join_parts=False)
    path = tmp_path / "published.safetensors"
    save_weights(path, shipped.params, dataclasses.replace(shipped.info, model=published))
    loaded = load_segmenter(path)
    assert (loaded.passes, loaded.join_parts) == (1, False)
    assert load_segmenter(model="geometric").passes == 1


def test_what_cannot_be_loaded():
    with pytest.raises(UserError, match="geometric has no weights; leave out --weights"):
        load_segmenter("some.safetensors", model="geometric")
    with pytest.raises(UserError, match="no weights of the model motion-grouping; train them"):
        load_segmenter(model="motion-grouping")
    with pytest.raises(UserError, match="holds weights for segmentation, and not for motion"):
        load_segmenter("oclr-small", model="motion-grouping")
    with pytest.raises(UserError, match="no model 'yolo'; choose from oclr, motion-grouping"):
        load_segmenter(model="yolo")

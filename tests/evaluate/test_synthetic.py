"""Synthetic data: matching per window, order, both layouts."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_dataset, evaluate_synthetic, run
from oclr_jax.evaluate.synthetic import (
    SyntheticSequence,
    composed,
    find_synthetic,
    score_synthetic,
)
from oclr_jax.flow import write_flo
from tests.clips import motion_segmenter


def boxes(frames=6):
    """Amodal masks [t h w 2] on the model's grid: the left one is in front of the right one."""
    amodal = np.zeros((frames, 32, 48, 2), bool)
    amodal[:, 4:20, 4:24, 0] = amodal[:, 10:28, 16:40, 1] = True
    return amodal


def segmenter_that_finds(masks, order):
    """Layers as given, whatever the flow."""

    def predict(_, flow):
        probability = np.where(masks[: flow.shape[1]], 0.9, 0.1).astype(np.float32)
        return probability[None], np.array([order], np.float32)

    return dataclasses.replace(motion_segmenter(), predict=predict)


def sequence_of(amodal):
    flow = np.zeros((len(amodal), 32, 48, 4), np.float32)
    return SyntheticSequence(
        "one",
        lambda: flow,
        lambda: amodal,
        lambda: composed(amodal),
        [str(frame) for frame in range(len(amodal))],
        lambda frame: np.zeros((64, 96, 3), np.uint8),
    )


def layers(amodal, empty=1):
    return np.concatenate([amodal, np.zeros((*amodal.shape[:3], empty), bool)], axis=-1)


def test_a_model_that_sees_frames_gets_them_on_its_grid():
    amodal, seen = boxes(), []

    def predict(_, flow, frames):
        seen.append(frames)
        return np.zeros((1, *flow.shape[1:4], 3), np.float32), np.zeros((1, 3), np.float32)

    segmenter = dataclasses.replace(motion_segmenter(), predict=predict, sees_frames=True)
    sequence = dataclasses.replace(
        sequence_of(amodal), frame=lambda frame: np.full((64, 96, 3), 10 * frame, np.uint8)
    )
    score_synthetic(segmenter, sequence)
    assert seen[0].shape == (1, 6, 32, 48, 3)
    assert seen[0][0, :, 5, 5, 0].tolist() == [0, 10, 20, 30, 40, 50]


def test_layers_in_any_place_and_the_true_order():
    amodal = boxes()
    found = layers(amodal)[..., [1, 2, 0]]
    entry = score_synthetic(segmenter_that_finds(found, [0.5, 9.0, 0.1]), sequence_of(amodal))
    entry = entry["paper"]
    assert (entry["J"], entry["J_amodal"]) == (1, 1)
    assert (entry["pairs_right"], entry["pairs"]) == (1, 1)


def test_a_wrong_order_costs_modal_masks_alone():
    amodal = boxes()
    entry = score_synthetic(
        segmenter_that_finds(layers(amodal), [0.9, 0.1, 1.0]), sequence_of(amodal)
    )["paper"]
    area, shared = (16 * 20, 18 * 24), 10 * 8
    wanted = ((area[0] - shared) / area[0] + (area[1] - shared) / area[1]) / 2
    assert entry["J_amodal"] == 1 and entry["J"] == pytest.approx(wanted)
    assert (entry["pairs_right"], entry["pairs"]) == (0, 1)


def test_what_an_occluder_hides_is_not_seen():
    amodal = boxes()
    shown = composed(amodal)
    shown[:, 24:] = False  # an occluder at the bottom, in front of the right object
    sequence = dataclasses.replace(sequence_of(amodal), modal=lambda: shown)
    entry = score_synthetic(segmenter_that_finds(layers(amodal), [0.1, 0.5, 1.0]), sequence)
    right = 18 * 24 - 10 * 8
    wanted = (1 + (right - 4 * 24) / right) / 2
    assert entry["paper"]["J_amodal"] == 1 and entry["paper"]["J"] == pytest.approx(wanted)


def test_empty_layers_do_not_count_and_masks_grow_to_the_truth():
    amodal = boxes()
    large = np.kron(layers(amodal[..., :1], 2), np.ones((1, 2, 2, 1), bool))
    found = layers(amodal[..., :1], 2)
    entry = score_synthetic(segmenter_that_finds(found, [0.0, 1.0, 2.0]), sequence_of(large))
    assert entry["paper"]["J"] == entry["paper"]["J_amodal"] == 1
    assert entry["paper"]["pairs"] == 0


def write_released(root, amodal):
    for number, frame in enumerate(amodal):
        for folder in ("JPEGImages", "AmodalAnnotations"):
            (root / folder / "2_a").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "JPEGImages/2_a" / f"{number:05d}.jpg"), np.zeros((32, 48, 3)))
        for layer, index in ((1, 1), (2, 0)):  # layer 1 is at the back
            path = root / "AmodalAnnotations/2_a" / f"{layer}_{number:05d}.png"
            cv2.imwrite(str(path), frame[..., index].astype(np.uint8) * 255)
        for gap in (1, -1):
            if 0 <= number + gap < len(amodal):
                flow = np.full((32, 48, 2), gap, np.float32)
                write_flo(root / f"Flows_gap{gap}" / "2_a" / f"{number:05d}.flo", flow)
    return root


def test_the_release_has_the_back_layer_first(tmp_path, monkeypatch):
    amodal = boxes()
    root = write_released(tmp_path / "Syn-Val", amodal)
    (sequence,) = find_synthetic("syn_val_released", root)
    assert np.array_equal(sequence.amodal(), amodal)
    flow = sequence.flow()
    assert np.unique(flow[..., :2]).tolist() == [1] and np.unique(flow[..., 2:]).tolist() == [-1]
    model = segmenter_that_finds(layers(amodal), [0.1, 0.5, 0.9])
    monkeypatch.setattr(run, "load_segmenter", lambda *_: model)
    output = tmp_path / "out"
    report = evaluate_synthetic("syn_val_released", root, output=output)
    assert report["mean"] == {"paper": {"J": 1.0, "J_amodal": 1.0, "order": 1.0}}
    page = (output / "report.html").read_text()
    assert {path.name for path in output.iterdir()} >= {"metrics.json", "report.html"}
    # Flow that is the same everywhere is the camera's.
    baseline = json.loads((output / "geometric" / "metrics.json").read_text())
    assert baseline["mean"]["paper"]["J"] == 0 and "<td>geometric</td>" in page
    tracks = evaluate_dataset("syn_val_released", root, protocols=("sequence-oracle", "union"))
    assert tracks["mean"]["sequence-oracle"]["J"] == tracks["mean"]["union"]["J"] == 1
    assert len(tracks["sequences"]["2_a"]["sequence-oracle"]["objects"]) == 2


def test_what_is_no_synthetic_data(tmp_path, capsys):
    for name, says in (("syn_val_released", "Syn-Val"), ("oclr_syn", "features.json")):
        with pytest.raises(UserError, match=says):
            find_synthetic(name, tmp_path)
    arguments = ["--data", str(tmp_path), "--gap", "3"]
    assert cli.main(["evaluate", "--dataset", "oclr_syn", *arguments]) == 2
    assert "leave out" in capsys.readouterr().err


def test_protocols_on_tracks_are_named_for_synthetic_data(tmp_path, capsys):
    root = write_released(tmp_path / "Syn-Val", boxes())
    arguments = ["--data", str(root), "--protocol", "sequence-oracle,paper"]
    assert cli.main(["evaluate", "--dataset", "syn_val_released", *arguments]) == 2
    assert "under sequence-oracle and union" in capsys.readouterr().err

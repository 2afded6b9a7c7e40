"""The evaluation of a dataset folder: layout, protocols, which frames count."""

import dataclasses
import json

import numpy as np
import pytest

from oclr_jax import cli, evaluate
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_folder, format_table, paper_masks
from oclr_jax.flow import gap_flows, make_estimator, write_flo
from oclr_jax.inference import stream_flow
from oclr_jax.ops.metrics import jaccard
from oclr_jax.video.clip import open_clip
from oclr_jax.video.png import read_ids, write_ids, write_png
from tests.clips import INFO, motion_segmenter, moving_clip, square_masks, write_frames


@pytest.fixture(autouse=True)
def motion_model(monkeypatch):
    monkeypatch.setattr(evaluate, "load_segmenter", lambda weights: motion_segmenter())


def make_dataset(root, resolution="480p", binary=True, frames=9):
    """Two sequences, annotated as DAVIS2016 (`binary`) or with an id for each object."""
    for name, seed in (("first", 0), ("second", 20)):
        write_frames(root / "JPEGImages" / resolution / name, moving_clip(frames, seed=seed))
        for number, ids in enumerate(square_masks(frames)):
            path = root / "Annotations" / resolution / name / f"{number}.png"
            if binary:
                write_png(path, (ids > 0) * np.uint8(255))
            else:
                write_ids(path, ids)
    return root


@pytest.mark.parametrize("resolution", ["480p", ""])
def test_both_layouts_and_the_table(tmp_path, resolution):
    report = evaluate_folder(make_dataset(tmp_path / "my data", resolution), quiet=True)
    assert report["dataset"] == "my data"
    assert list(report["sequences"]) == ["first", "second"]
    assert list(report["mean_J"]) == ["paper", "sequence-oracle", "union"]
    # Both squares are foreground: one layer can have but one of them, the union has both.
    assert 0.3 < report["mean_J"]["paper"] < 0.5
    assert 0.3 < report["mean_J"]["sequence-oracle"] < 0.5
    assert report["mean_J"]["union"] > 0.6
    table = format_table(report)
    for protocol, mean in report["mean_J"].items():
        assert f"{protocol} {mean:.3f}" in table.splitlines()[-1]
    assert table.count("all but first and last frames") == 2


def test_objects_are_matched_one_to_one(tmp_path):
    report = evaluate_folder(make_dataset(tmp_path, binary=False), quiet=True)
    assert report["mean_J"]["paper"] > 0.6
    assert report["mean_J"]["sequence-oracle"] > 0.6
    assert report["sequences"]["first"]["frames"] == "all"


def test_flow_from_a_folder_of_sequences(tmp_path):
    root = make_dataset(tmp_path / "data")
    for name, seed in (("first", 0), ("second", 20)):
        frames = moving_clip(9, seed=seed)
        for gap in (1, -1):
            flows = gap_flows(frames, (gap, -gap), make_estimator(INFO.flow))[..., :2]
            for number, flow in enumerate(flows):
                if 0 <= number + gap < 9:
                    write_flo(tmp_path / f"Flows_gap{gap}" / name / f"{number}.flo", flow)
    expected = evaluate_folder(root, quiet=True)
    found = evaluate_folder(root, flow=tmp_path, quiet=True)
    assert found["sequences"] == expected["sequences"]


def test_paper_windows_are_matched_one_by_one_and_the_later_one_wins():
    frames = moving_clip(8)  # windows of 6: frames 0 to 5, then 2 to 7
    clip = open_clip(frames)
    flows = list(stream_flow(clip, make_estimator(INFO.flow), INFO.model))
    windows = iter([(0.9, [1, 0]), (0.7, [0, 1])])
    used = []

    def swapped(params, flow):
        # The second window has the same layers in another order, and smaller masks.
        threshold, layers = next(windows)
        u = flow[0, ..., 0]
        used.append(threshold)
        masks = np.stack([u > threshold, u < -threshold], axis=-1)[..., layers]
        return np.where(masks, 0.9, 0.1).astype(np.float32)[None], np.zeros((1, 2), np.float32)

    segmenter = dataclasses.replace(motion_segmenter(), predict=swapped)
    truth = evaluate.Truth(
        list(range(8)), np.stack([square_masks(8) == id for id in (1, 2)]), binary=False
    )
    masks = paper_masks(segmenter, flows, truth, clip)
    assert used == [0.9, 0.7]
    grid = np.stack([flow.flow[..., 0] for flow in flows])
    for object, u in enumerate((grid, -grid)):
        for frame in range(8):
            wanted = u[frame] > (0.9 if frame < 2 else 0.7)
            wanted = evaluate.resize_mask(wanted, 64, 96)
            assert np.array_equal(masks[object, frame], wanted), (object, frame)


def test_an_object_without_a_layer_is_empty_in_the_whole_window():
    """One layer, two objects: each window (frames 0 to 5, then 2 to 7) finds another of them."""
    clip = open_clip(moving_clip(8))
    flows = list(stream_flow(clip, make_estimator(INFO.flow), INFO.model))
    truth = evaluate.Truth(list(range(8)), np.zeros((2, 8, 64, 96), bool), binary=False)
    truth.objects[0, ..., :48] = truth.objects[1, ..., 48:] = True
    windows = iter([np.s_[..., :24], np.s_[..., 24:]])

    def predict(params, flow):
        probability = np.full((1, 6, 32, 48), 0.1, np.float32)
        probability[next(windows)] = 0.9
        return probability[..., None], np.zeros((1, 1), np.float32)

    masks = paper_masks(
        dataclasses.replace(motion_segmenter(), predict=predict), flows, truth, clip
    )
    assert masks.any(axis=(2, 3)).tolist() == [[True] * 2 + [False] * 6, [False] * 2 + [True] * 6]


def test_modal_masks_in_the_paper_protocol():
    """The layer behind loses what the layer in front covers before masks are compared."""
    frames = moving_clip(6)
    clip = open_clip(frames)
    flows = list(stream_flow(clip, make_estimator(INFO.flow), INFO.model))
    left, both = np.zeros((2, 6, 32, 48), bool)
    left[..., :24] = both[..., :40] = True

    def predict(params, flow):
        masks = np.stack([both, left], axis=-1)[None]
        return np.where(masks, 0.9, 0.1).astype(np.float32), np.array([[5.0, -1.0]], np.float32)

    segmenter = dataclasses.replace(motion_segmenter(), predict=predict)
    behind = np.zeros((1, 6, 64, 96), bool)
    behind[..., 48:80] = True
    truth = evaluate.Truth(list(range(6)), behind, binary=True)
    assert jaccard(paper_masks(segmenter, flows, truth, clip), behind).min() == 1


def test_only_annotated_frames_count(tmp_path):
    root = make_dataset(tmp_path, binary=False)
    for number in (0, 3, 4, 8):
        (root / "Annotations" / "480p" / "first" / f"{number}.png").unlink()
    clip = open_clip(root / "JPEGImages" / "480p" / "first")
    truth = evaluate.read_truth(root / "Annotations" / "480p" / "first", clip)
    assert truth.frames == [1, 2, 5, 6, 7]
    assert truth.objects.shape == (2, 5, 64, 96)
    assert evaluate_folder(root, quiet=True)["mean_J"]["paper"] > 0.6


def test_output_keeps_metrics_masks_and_overlays(tmp_path):
    root, output = make_dataset(tmp_path / "data"), tmp_path / "out"
    report = evaluate_folder(root, output=output, quiet=True)
    assert json.loads((output / "metrics.json").read_text()) == report
    assert sorted(path.name for path in (output / "overlays").iterdir()) == [
        f"{sequence}_{kind}.mp4" for sequence in ("first", "second") for kind in ("paper", "tracks")
    ]
    paper = np.stack([read_ids(output / "masks/paper/first" / f"{i}.png") for i in range(1, 8)])
    j = jaccard(paper > 0, square_masks(9)[1:8] > 0).mean()
    assert j == pytest.approx(report["sequences"]["first"]["J"]["paper"])
    with pytest.raises(UserError, match="already has results"):
        evaluate_folder(root, output=output, quiet=True)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "JPEGImages and Annotations"),
        (lambda root: no_sequences(root), "no sequences"),
        (lambda root: without_annotations(root), "has no annotations"),
        (lambda root: other_names(root), "no annotation that is named as a frame"),
        (lambda root: other_size(root), "must have one size"),
        (lambda root: all_empty(root), "all empty"),
    ],
)
def test_bad_datasets(tmp_path, capsys, spoil, says):
    spoil(tmp_path / "data")
    output = tmp_path / "out"
    arguments = ["--data", str(tmp_path / "data"), "--output", str(output), "--quiet"]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == []


def test_an_unknown_protocol(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--protocol", "paper,oracle"]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2
    assert "no protocol 'oracle'" in capsys.readouterr().err


def no_sequences(root):
    (root / "JPEGImages").mkdir(parents=True)
    (root / "Annotations").mkdir()


def without_annotations(root):
    make_dataset(root)
    folder = root / "Annotations" / "480p" / "second"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def other_names(root):
    make_dataset(root)
    for path in (root / "Annotations" / "480p" / "first").iterdir():
        path.rename(path.with_name(f"x{path.name}"))


def other_size(root):
    make_dataset(root)
    path = root / "Annotations" / "480p" / "first" / "4.png"
    write_png(path, read_ids(path)[:-2])


def all_empty(root):
    make_dataset(root)
    for path in (root / "Annotations" / "480p" / "first").iterdir():
        write_png(path, np.zeros((64, 96), np.uint8))

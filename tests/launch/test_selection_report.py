"""The table of mask selectors, on a tiny dataset and with random weights."""

import json
from functools import partial

import numpy as np
import pytest

from launch import predict_masks
from launch.reports import selection
from launch.reports.selection import Masks, measure, propagation_quality
from oclr_jax.models import dino
from oclr_jax.models import selector as selector_model
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr.tta.backbone import load_backbone
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights
from tests.clips import motion_segmenter, moving_clip, square_masks


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder for each selector, and a file of features, all random."""
    root, rng = tmp_path_factory.mktemp("weights"), np.random.default_rng(0)

    def write(path, config, shapes):
        flat = {n: 0.3 * rng.standard_normal(s, np.float32) for n, s in shapes.items()}
        path.parent.mkdir(exist_ok=True)
        save_weights(path, unflatten(flat), WeightsInfo(config, path.stem), dtype="float32")

    for predicts in ("score", "error_map"):
        config = selector_model.SelectorConfig(
            height=16, width=32, channels=(4, 4, 8), layers=1, heads=2, feedforward=8,
            backbone="own", feature_channels=6, frames=8, predicts=predicts,
        )  # fmt: skip
        path = root / predicts / "selector.safetensors"
        write(path, config, selector_model.parameter_shapes(config))
    config = dino.DINOConfig(patch=8, width=16, depth=3, heads=2)
    write(root / "features.safetensors", config, dino.parameter_shapes(config))
    return root


@pytest.fixture(scope="module")
def dataset(data_dir, tmp_path_factory):
    """The tiny dataset with stored masks of what moves to the left or to the right."""
    import shutil

    (stored,) = data_dir.glob("oclr_syn/tiny/*")
    folder = shutil.copytree(stored, tmp_path_factory.mktemp("dataset") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_masks, "load_segmenter", lambda *_: motion_segmenter())
        assert predict_masks.main([str(folder), "--name", "motion", "--quiet"]) == 0
    return folder


def test_every_row_is_measured_on_the_same_objects(dataset, weights, tmp_path, capsys, monkeypatch):
    small = {"short_side": 64, "long_multiple": 32, "radius": 3}
    monkeypatch.setattr(selection, "TTAConfig", lambda weights="": TTAConfig(weights, **small))
    arguments = [
        *(str(dataset), "--predicted", "motion", "--clips", "2", "--quiet"),
        *("--refine-weights", str(weights / "error_map")),
        *("--score-weights", str(weights / "score")),
        *("--features", str(weights / "features.safetensors")),
        *("--output", str(tmp_path / "selection.json")),
    ]
    assert selection.main(arguments) == 0
    report = json.loads((tmp_path / "selection.json").read_text())
    assert set(report["rows"]) == set(selection.PUBLISHED)
    assert len({row["objects"] for row in report["rows"].values()}) == 1
    assert all(0 < row["ap"] <= 1 for row in report["rows"].values())
    printed = capsys.readouterr().out
    assert f"error map    {report['rows']['error map']['ap']:.3f}" in printed
    assert "published: 0.893" in printed


def test_rows_without_weights_say_why(dataset, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("oclr_jax.refine.appearance_models.SHIPPED", tmp_path)
    arguments = [str(dataset), "--predicted", "motion", "--clips", "2", "--quiet"]
    assert selection.main([*arguments, "--score-weights", str(weights / "error_map")]) == 0
    random, propagation, score, error_map = capsys.readouterr().out.splitlines()[1:]
    assert "objects)" in random
    assert "not measured: There are no weights dino_deitsmall8" in propagation
    assert "predicts error_map, not score" in score
    assert "not measured: There are no weights of the selector" in error_map
    assert selection.main([str(dataset), "--predicted", "none"]) == 2
    assert "predicted masks none" in capsys.readouterr().err


def masks_with_bad_frames(bad: set[int]) -> Masks:
    """Squares whose masks are shifted away in the bad frames."""
    ids = square_masks(8)
    for frame in bad:
        ids[frame] = np.roll(ids[frame], 24, axis=1)
    truth = square_masks(8)
    iou = [
        [((a == id) & (b == id)).sum() / ((a == id) | (b == id)).sum() for id in (1, 2)]
        for a, b in zip(ids, truth, strict=True)
    ]
    return Masks(moving_clip(8), ids, [1, 2], np.array(iou))


def test_perfect_selection_is_one_and_random_is_chance():
    clip = masks_with_bad_frames({1, 2, 4, 5})  # half of them: no ties
    rows = measure(iter([clip]), {"oracle": lambda masks: masks.iou, "worst": lambda m: -m.iou})
    assert rows["oracle"] == {"ap": 1.0, "objects": 2}
    assert rows["worst"]["ap"] < rows["random"]["ap"] < 1


def test_propagation_ranks_what_the_frames_before_confirm(weights):
    config = TTAConfig(str(weights / "features.safetensors"), 64, 32, radius=3)
    features = partial(selection.backbone_features, load_backbone(config))
    quality = propagation_quality(features, 8, config, masks_with_bad_frames({4}))
    assert quality.shape == (8, 2) and np.isneginf(quality[0]).all()
    assert (quality[4] < quality[1:4].min(axis=0)).all()


def test_colours_are_features_without_weights():
    config = TTAConfig("", 128, 32, radius=3)
    features, patch = selection.colour_features, selection.COLOUR_PATCH
    quality = propagation_quality(features, patch, config, masks_with_bad_frames({4}))
    assert (quality[4] < quality[1:4].min(axis=0)).all()
    frame = np.full((32, 64, 3), 90, np.uint8)
    frame[:16, :16] = 200
    (found,) = features([frame], 32, 64)
    assert found.shape == (2, 4, 48)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(found[0, 0] @ found[1, 1], -1, rtol=1e-5)
    np.testing.assert_allclose(found[0, 1], found[1, 3], rtol=1e-5)

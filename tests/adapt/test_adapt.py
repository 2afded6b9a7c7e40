"""Adaptation from end to end, on a small video with a model that sees what moves."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from oclr_jax.adapt import footage as footage_module
from oclr_jax.adapt import labels as labels_module
from oclr_jax.adapt import run as run_module
from oclr_jax.adapt.clips import choose_clips, footage_clip
from oclr_jax.adapt.footage import StoredFlow, open_footage, store_flow
from oclr_jax.adapt.guard import judge
from oclr_jax.adapt.labels import Labels, Steadiness, left_out, make_labels
from oclr_jax.adapt.run import adapt
from oclr_jax.adapt.settings import AdaptSettings
from oclr_jax.cli import main
from oclr_jax.errors import UserError
from oclr_jax.flow import from_settings
from oclr_jax.models.oclr import OCLR
from oclr_jax.refine.self_refiner import SelfRefiner
from oclr_jax.train.tasks.segmentation import init_params
from oclr_jax.weights.file import load_weights, save_weights
from tests.clips import CONFIG, INFO, motion_segmenter, moving_clip, square_masks, write_frames

FRAMES = 20
SETTINGS = AdaptSettings(
    steps=2, stage_steps=1, frames=4, real=1, rendered=1, scenes=1, gaps=(1, 2), passes=1
)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("video") / "clip", moving_clip(FRAMES))


@pytest.fixture(scope="module")
def start():
    return jax.tree.map(np.asarray, init_params(OCLR(CONFIG), 0))


@pytest.fixture(autouse=True)
def fast_refiner(monkeypatch):
    monkeypatch.setattr(labels_module, "SelfRefiner", lambda: SelfRefiner(steps=20))


def largest_change(params, start) -> float:
    changes = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), params, start)
    return float(max(jax.tree.leaves(changes)))


def flickering(start, better: bool):
    """Sees what moves; the masks flicker with the given weights, or with all others."""
    clean = motion_segmenter().predict

    def predict(params, flow):
        probability, order = clean(None, flow)
        if (largest_change(params, start) == 0) == better:
            probability = probability.copy()
            probability[:, ::3, :7] = 0.1  # half of a square
        return probability, order

    return dataclasses.replace(motion_segmenter(), params=start, predict=predict)


@pytest.fixture
def model(monkeypatch, start):
    def use(better: bool):
        segmenter = flickering(start, better)
        monkeypatch.setattr(run_module, "load_segmenter", lambda *_: segmenter)

    return use


@pytest.fixture(scope="module")
def stored(video, tmp_path_factory) -> StoredFlow:
    (footage,) = open_footage([video])
    folder = tmp_path_factory.mktemp("flow")
    gaps = 1, -1, 2, -2
    return store_flow(footage, from_settings(INFO.flow), gaps, (32, 48), folder)


@pytest.mark.slow
def test_steadier_weights_are_kept_and_segment_uses_them(video, tmp_path, model, start):
    model(better=True)
    record = adapt([video], tmp_path / "out", settings=SETTINGS)
    assert record["kept"] and record["after"] > record["before"]
    params, info = load_weights(tmp_path / "out" / "weights.safetensors")
    assert info.name == "motion-adapted" and info.model == CONFIG
    assert info.card["adapted"]["videos"][0]["name"] == "clip"
    assert 1e-5 < largest_change(params, start) < 1e-2, "a few steps at a small learning rate"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapt.json",
        "report.html",
        "weights.safetensors",
    ]
    assert record == json.loads((tmp_path / "out" / "adapt.json").read_text())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "are kept" in page and page.count("<img") == 2
    with pytest.raises(UserError, match="already has adapted weights"):
        adapt([video], tmp_path / "out", settings=SETTINGS)


@pytest.mark.slow
def test_worse_weights_are_not_kept(video, tmp_path, model, start):
    model(better=False)
    record = adapt([video], tmp_path / "out", settings=SETTINGS)
    assert not record["kept"] and "no weights of the training" in record["reason"]
    params, info = load_weights(tmp_path / "out" / "weights.safetensors")
    assert info.name == "motion"
    assert largest_change(params, start) < 1e-3, "float16 in the file"


def test_a_still_video_teaches_nothing(tmp_path, model):
    model(better=True)
    noise = np.arange(12, dtype=np.uint8)[:, None, None, None] % 2
    video = write_frames(tmp_path / "still", np.repeat(moving_clip(1) // 2, 12, axis=0) + noise)
    record = adapt([video], tmp_path / "out", settings=SETTINGS)
    assert (
        not record["kept"] and record["clips"] == 0 and "no part of the videos" in record["reason"]
    )


@pytest.mark.slow
def test_an_adaptation_goes_on_where_it_stopped(video, tmp_path, model, monkeypatch):
    """The same weights as without a stop; what was done is not done again."""
    model(better=True)
    adapt([video], tmp_path / "whole", settings=SETTINGS)
    calls, fit = [], run_module.fit

    def stopping(*args, **kwargs):
        calls.append("fit")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(run_module, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        adapt([video], tmp_path / "out", settings=SETTINGS)
    with pytest.raises(UserError, match="other settings"):
        adapt([video], tmp_path / "out", settings=dataclasses.replace(SETTINGS, seed=1))
    monkeypatch.setattr(footage_module, "stream_flow", None)
    adapt([video], tmp_path / "out", settings=SETTINGS)
    assert calls == ["fit"] * 3
    whole, resumed = (
        load_weights(tmp_path / n / "weights.safetensors")[0] for n in ("whole", "out")
    )
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_a_spent_budget_ends_training(video, tmp_path, model):
    model(better=True)
    record = adapt([video], tmp_path / "out", settings=SETTINGS, budget=1e-3)
    assert not record["kept"] and [row["step"] for row in record["rows"]] == [0]
    assert "the time was over" in record["reason"]


def test_labels_are_the_refined_masks_and_clips_avoid_left_out_frames(video, stored):
    (footage,) = open_footage([video])
    labels = make_labels(footage, stored, motion_segmenter())
    truth = square_masks(FRAMES)[:, ::2, ::2]
    iou = ((labels.ids > 0) & (truth > 0)).sum() / ((labels.ids > 0) | (truth > 0)).sum()
    assert iou > 0.5
    places = choose_clips([labels], [stored], (1, -1), frames=4)
    held = left_out(stored.shots, 4)
    assert held.sum() == 4 and places
    assert not any(held[place.frames].any() for place in places)
    clip = footage_clip(labels, stored, places[0].frames, (2, -2))
    assert clip["modal"].shape == (4, 32, 48, 3)
    assert clip["modal"].any(axis=(0, 1, 2)).tolist() == [True, True, False]
    one = footage_clip(labels, stored, places[0].frames, (1, -1))
    fast, slow = (np.percentile(np.abs(c["flow"]), 99) for c in (clip, one))
    assert fast > 1.5 * slow


def test_frames_whose_masks_do_not_hold_are_in_no_clip(stored):
    agreement = np.ones(FRAMES, np.float32)
    agreement[5] = 0.3
    labels = Labels(np.ones((FRAMES, 32, 48), np.uint8), np.array([1], np.uint8), agreement)
    places = choose_clips([labels], [stored], (1, -1), frames=3)
    assert places and not any(5 in place.frames for place in places)


@pytest.mark.parametrize(
    "agreement, area, words",
    [
        (0.9, 0.1, None),
        (0.75, 0.1, "less steady"),
        (0.6, 0.1, "of a agree less"),
        (0.9, 0.01, "cover 0.10"),
        (0.9, 0.5, "cover 5"),
    ],
)
def test_what_collapses_is_refused(agreement, area, words):
    def masks(agreement, area):
        return Steadiness(np.full(8, agreement, np.float32), np.full(8, area, np.float32))

    held = np.arange(8) > 5
    verdict = judge(["a"], [masks(0.8, 0.1)], [masks(agreement, area)], [held])
    assert verdict.kept == (words is None)
    assert words is None or words in verdict.reason


@pytest.mark.slow
def test_command(video, tmp_path, start, capsys):
    path = tmp_path / "start.safetensors"
    save_weights(path, start, INFO)
    bad = ["adapt", str(video), "--output", str(tmp_path / "out"), "--weights", str(path)]
    assert main([*bad, "--rounds", "0"]) == 2
    assert main([*bad, "--flow", str(video)]) == 2
    assert main(["adapt", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert main([*bad, "--steps", "1", "--quiet"]) == 0
    assert "weights" in capsys.readouterr().out
    assert (tmp_path / "out" / "weights.safetensors").exists()

"""Adaptation from end to end, on a small video with a model that sees what moves."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from oclr_jax.adapt import corrector_stage, flow_stage
from oclr_jax.adapt import footage as footage_module
from oclr_jax.adapt import run as run_module
from oclr_jax.adapt import work as work_module
from oclr_jax.adapt.clips import choose_clips, footage_clip
from oclr_jax.adapt.footage import StoredFlow, open_footage, store_flow
from oclr_jax.adapt.guard import Verdict, judge
from oclr_jax.adapt.labels import (
    Labels,
    Steadiness,
    left_out,
    make_labels,
    visible_and_hidden,
)
from oclr_jax.adapt.run import adapt
from oclr_jax.adapt.settings import AdaptSettings
from oclr_jax.cli import main
from oclr_jax.errors import UserError
from oclr_jax.flow import from_settings
from oclr_jax.models.oclr import OCLR
from oclr_jax.refine import adapt as refine_adapt
from oclr_jax.refine.refiner import open_refiners
from oclr_jax.refine.self_refiner import SelfRefiner
from oclr_jax.tracks import StoredMask, Track
from oclr_jax.train.tasks.segmentation import init_params
from oclr_jax.weights.file import load_weights, save_weights
from tests.clips import CONFIG, INFO, motion_segmenter, moving_clip, square_masks, write_frames
from tests.refine.test_select_and_correct import weights  # noqa: F401, a fixture
from tests.train.test_processes import run_two

# One of two processes that adapt to two videos: prints whose flow it estimates, and the results.
PROCESS = """
import sys
folder, port, index, one, two = sys.argv[1:]
from oclr_jax.train.processes import join_processes
join_processes(f"localhost:{port}", 2, int(index))
import json
import jax
from oclr_jax.adapt import footage, run, work
from tests.adapt.test_adapt import SETTINGS, SelfRefiner, flickering, start_params
stream = footage.stream_flow
footage.stream_flow = lambda clip, *rest: print(clip.name) or stream(clip, *rest)
work.SelfRefiner = lambda: SelfRefiner(steps=20)
run.load_segmenter = lambda *_: flickering(start_params(), better=True)
print(json.dumps(run.adapt([one, two], folder, settings=SETTINGS)["results"]))
"""
# The same for the corrector, whose training is replaced: it adds 1 or 3 to all parameters.
CORRECTOR_PROCESS = """
import sys
folder, port, index, one, two, weights = sys.argv[1:]
from oclr_jax.train.processes import join_processes
join_processes(f"localhost:{port}", 2, int(index))
import dataclasses
import jax
from oclr_jax.adapt import corrector_stage, run
from tests.adapt.test_adapt import KEEP, SETTINGS, flickering, start_params
def train(correct, video, *rest):
    print(video.clip.name)
    added = {"first": 1, "second": 3}[video.clip.name]
    return jax.tree.map(lambda x: x + added, correct.model.params)
corrector_stage.train_corrector = train
corrector_stage.judge = lambda *_: KEEP
run.load_segmenter = lambda *_: flickering(start_params(), better=True)
settings = dataclasses.replace(
    SETTINGS, stages=("corrector",), labels="appearance", corrector_passes=2
)
run.adapt([one, two], folder, refine_weights=weights, settings=settings)
"""
KEEP = Verdict(True, "said so", 0.0, 1.0)
FRAMES = 20
SETTINGS = AdaptSettings(
    steps=2, check_every=1, frames=4, real=1, rendered=1, scenes=1, gaps=(1, 2), passes=1
)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("video") / "clip", moving_clip(FRAMES))


def start_params():
    return jax.tree.map(np.asarray, init_params(OCLR(CONFIG), 0))


@pytest.fixture(scope="module")
def start():
    return start_params()


@pytest.fixture(autouse=True)
def fast_refiner(monkeypatch):
    monkeypatch.setattr(work_module, "SelfRefiner", lambda: SelfRefiner(steps=20))


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
    (result,) = record["results"]["flow"]
    assert result["kept"] and result["after"] > result["before"]
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
    (result,) = record["results"]["flow"]
    assert not result["kept"] and "no weights of the training" in result["reason"]
    params, info = load_weights(tmp_path / "out" / "weights.safetensors")
    assert info.name == "motion"
    assert largest_change(params, start) < 1e-3, "float16 in the file"


@pytest.mark.slow
def test_two_processes_share_the_videos_and_the_training(tmp_path):
    videos = [
        write_frames(tmp_path / name, moving_clip(FRAMES, seed=seed))
        for seed, name in enumerate(("first", "second"))
    ]
    processes, outputs = run_two(PROCESS, tmp_path / "out", *videos)
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines = [
        [line for line in output.splitlines() if not line.startswith("[Gloo]")]
        for output, _ in outputs
    ]
    (first, results), (second, same) = lines
    assert (first, second) == ("first", "second") and results == same
    (result,) = json.loads(results)["flow"]
    assert result["kept"] and [row["step"] for row in result["rows"]] == [0, 1, 2]
    params, _ = load_weights(tmp_path / "out" / "weights.safetensors")
    assert largest_change(params, start_params()) > 1e-5
    assert not (tmp_path / "out" / "state").exists()


@pytest.mark.slow
def test_two_processes_share_the_training_of_the_corrector(tmp_path, weights):  # noqa: F811
    videos = [
        write_frames(tmp_path / name, moving_clip(FRAMES, seed=seed))
        for seed, name in enumerate(("first", "second"))
    ]
    processes, outputs = run_two(CORRECTOR_PROCESS, tmp_path / "out", *videos, weights)
    assert [process.returncode for process in processes] == [0, 0], outputs
    trained = [[w for w in output.split() if w in ("first", "second")] for output, _ in outputs]
    assert len(trained[0]) == len(trained[1]) == 2, "one video in each pass"
    assert all(one != other for one, other in zip(*trained, strict=True))
    adapted, _ = load_weights(tmp_path / "out" / "refine" / "corrector.safetensors", "corrector")
    before, _ = load_weights(weights / "corrector.safetensors", "corrector")
    added = jax.tree.map(lambda a, b: np.asarray(a) - b, adapted, before)
    for leaf in jax.tree.leaves(added):  # stored in half precision
        np.testing.assert_allclose(leaf, 4, atol=0.01)  # the mean of 1 and 3 in each pass


def test_a_still_video_teaches_nothing(tmp_path, model):
    model(better=True)
    noise = np.arange(12, dtype=np.uint8)[:, None, None, None] % 2
    video = write_frames(tmp_path / "still", np.repeat(moving_clip(1) // 2, 12, axis=0) + noise)
    record = adapt([video], tmp_path / "out", settings=SETTINGS)
    (result,) = record["results"]["flow"]
    assert not result["kept"] and result["clips"] == 0
    assert "no part of the videos" in result["reason"]


@pytest.mark.slow
def test_an_adaptation_goes_on_where_it_stopped(video, tmp_path, model, monkeypatch):
    """The same weights as without a stop; what was done is not done again."""
    model(better=True)
    adapt([video], tmp_path / "whole", settings=SETTINGS)
    calls, fit = [], flow_stage.fit

    def stopping(*args, **kwargs):
        calls.append("fit")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(flow_stage, "fit", stopping)
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


@pytest.mark.slow
def test_a_spent_budget_ends_training(video, tmp_path, model):
    model(better=True)
    record = adapt([video], tmp_path / "out", settings=SETTINGS, budget=1e-3)
    (result,) = record["results"]["flow"]
    assert not result["kept"] and [row["step"] for row in result["rows"]] == [0]
    assert "the time was over" in result["reason"]


@pytest.mark.slow
def test_the_corrector_learns_its_own_masks(video, tmp_path, model, start, weights, monkeypatch):  # noqa: F811
    """Alone, and then both stages, where the flow model learns from the adapted corrector.

    The second time without the terms of the reconstruction (second paper, table 15).
    """
    model(better=True)
    monkeypatch.setattr(corrector_stage, "judge", lambda *_: KEEP)
    learned, losses, make = [], [], refine_adapt.make_step

    def spy(*settings):
        losses.append(settings[-1])
        step, optimizer = make(*settings)

        def watched(params, state, example, key):
            learned.append((example.frames[0], example.known[0]))
            return step(params, state, example, key)

        return watched, optimizer

    monkeypatch.setattr(refine_adapt, "make_step", spy)
    settings = dataclasses.replace(
        SETTINGS,
        stages=("corrector",),
        labels="appearance",
        corrector_passes=2,
        corrector_steps=2,
        corrector_learning_rate=1e-3,
    )
    record = adapt([video], tmp_path / "out", refine_weights=weights, settings=settings)
    (result,) = record["results"]["corrector"]
    assert result["kept"] and result["passes"] == 2 and "flow" not in record["results"]
    assert len(learned) == 4
    held = left_out((range(FRAMES),), SETTINGS.frames)
    assert not any(known[held[frames]].any() for frames, known in learned)
    adapted, info = load_weights(tmp_path / "out" / "refine" / "corrector.safetensors", "corrector")
    before, _ = load_weights(weights / "corrector.safetensors", "corrector")
    assert info.name == "tiny-corrector-adapted" and info.card["adapted"]["videos"]
    assert 1e-3 < largest_change(adapted, before) < 1e-1
    flow_params, flow_info = load_weights(tmp_path / "out" / "weights.safetensors")
    assert flow_info.name == "motion" and largest_change(flow_params, start) < 1e-3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "of the corrector are kept" in page and page.count("<img") == 1
    assert open_refiners(["appearance"], tmp_path / "out" / "refine")

    assert all(loss.reconstruction > 0 and loss.alpha > 0 for loss in losses)
    losses.clear()
    both = dataclasses.replace(
        settings, stages=("corrector", "flow"), corrector_passes=1, reconstruction=False
    )
    record = adapt([video], tmp_path / "both", refine_weights=weights, settings=both)
    assert list(record["results"]) == ["corrector", "flow"]
    assert losses and not any(loss.reconstruction or loss.alpha for loss in losses)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"stages": ()}, "stages are"),
        ({"stages": ("flow", "corrector"), "labels": "appearance"}, "in order"),
        ({"stages": ("selector",)}, "stages are"),
        ({"stages": ("corrector",)}, "needs the refiner appearance"),
        ({"labels": "crf"}, "self and appearance"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        AdaptSettings(**settings)


def test_labels_are_the_refined_masks_and_clips_avoid_left_out_frames(video, stored):
    (footage,) = open_footage([video])
    labels = make_labels(footage, stored, motion_segmenter(), [SelfRefiner(steps=20)])
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


def test_what_is_behind_another_object_stays_in_the_amodal_label(stored):
    front, back = np.zeros((2, 32, 48), bool)
    front[8:24, 8:24] = True
    back[8:24, 16:40] = True
    tracks = [
        Track(id, rank, 0, amodal={0: StoredMask.encode(mask, mask.astype(np.float32))})
        for id, rank, mask in ((2, 1, back), (1, 0, front))
    ]
    ids, hidden = visible_and_hidden(tracks, 0, 32, 48)
    np.testing.assert_array_equal(ids, np.where(front, 1, np.where(back, 2, 0)))
    np.testing.assert_array_equal(hidden, np.where(front & back, 2, 0))
    every = [np.repeat(x[None], FRAMES, axis=0) for x in (ids, hidden)]
    labels = Labels(*every, np.array([1, 2], np.uint8), np.ones(FRAMES, np.float32))
    clip = footage_clip(labels, stored, range(4), (1, -1))
    for layer, mask in ((0, front), (1, back)):
        np.testing.assert_array_equal(clip["amodal"][0, ..., layer], mask)
    np.testing.assert_array_equal(clip["modal"][0, ..., 1], back & ~front)


def test_frames_whose_masks_do_not_hold_are_in_no_clip(stored):
    agreement = np.ones(FRAMES, np.float32)
    agreement[5] = 0.3
    ids = np.ones((FRAMES, 32, 48), np.uint8)
    labels = Labels(ids, np.zeros_like(ids), np.array([1], np.uint8), agreement)
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
    assert main([*bad, "--stages", "corrector"]) == 2
    assert main([*bad, "--no-reconstruction"]) == 2
    assert main([*bad, "--refine-weights", str(tmp_path)]) == 2
    assert main(["adapt", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    assert main([*bad, "--steps", "1", "--quiet"]) == 0
    assert "weights" in capsys.readouterr().out
    assert (tmp_path / "out" / "weights.safetensors").exists()

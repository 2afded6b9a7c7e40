"""Test-time adaptation from end to end, with random weights at a small size."""

import json
import tracemalloc
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from oclr_jax import cli, pipeline
from oclr_jax.errors import UserError
from oclr_jax.evaluate import run
from oclr_jax.models.dino import DINOConfig, parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr.tta.backbone import load_backbone
from oclr_jax.oclr.tta.config import VARIANTS, TTAConfig
from oclr_jax.pipeline import segment_to_folder, segment_video
from oclr_jax.refine.feature_cache import FeatureCache
from oclr_jax.refine.refiner import REFINERS, RefinerVideo
from oclr_jax.refine.tta import TTARefiner
from oclr_jax.video.png import write_ids
from oclr_jax.video.writer import video_writer
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights
from tests.clips import motion_segmenter, moving_clip, square_masks, write_frames

FRAMES = 7


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    config, rng = DINOConfig(patch=8, width=16, depth=3, heads=2), np.random.default_rng(0)
    flat = {
        name: rng.standard_normal(shape, np.float32) * (0.3 if len(shape) > 1 else 1)
        for name, shape in parameter_shapes(config).items()
    }
    path = tmp_path_factory.mktemp("dino") / "tiny.safetensors"
    save_weights(path, unflatten(flat), WeightsInfo(config, "tiny"), dtype="float32")
    return path


@pytest.fixture
def config(weights, monkeypatch, tmp_path) -> TTAConfig:
    """Small settings; `--refine tta` has them, and the flow model needs no weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    for room in (pipeline, run):
        monkeypatch.setattr(room, "load_segmenter", lambda *_: motion_segmenter())
    small = TTAConfig(
        weights=str(weights), short_side=64, long_multiple=32, radius=3, steps=3, warmup_steps=2
    )
    use(monkeypatch, small)
    return small


def use(monkeypatch, config: TTAConfig) -> None:
    monkeypatch.setitem(REFINERS, "tta", lambda: TTARefiner("tta", config, load_backbone(config)))


def test_masks_are_refined_and_the_rest_stays(config, tmp_path):
    frames = moving_clip(FRAMES)
    plain, refined = segment_video(frames, refine=()), segment_video(frames, refine=["tta"])
    assert list(refined.amodal) == list(plain.amodal) == [1, 2]
    assert refined.order == plain.order
    for id in (1, 2):
        outside = refined.amodal[id] & (refined.masks != id)
        assert (refined.amodal[id] | (refined.masks != id)).all(), "its visible part is of it"
        assert (plain.amodal[id] | ~outside).all(), "the rest is the flow model's"
    changed = (refined.masks != plain.masks).any((1, 2))
    # The key frame keeps the flow model's masks.
    assert 0 < changed.sum() < FRAMES
    assert all(set(np.unique(mask)) == {0, 1, 2} for mask in refined.masks)
    (record,) = refined.record["settings"]["refiners"]
    assert record["name"] == "tta" and record["weights"] == "tiny" and record["steps"] == 3
    assert record["precision"] == "float32" and len(record["weights_sha256"]) == 64
    json.dumps(record)


def test_the_same_video_gives_the_same_bytes(config, tmp_path):
    source = write_frames(tmp_path / "frames", moving_clip(FRAMES))
    for name in ("first", "second"):
        segment_to_folder(source, tmp_path / name, refine=["tta"], overlay=False)
    files = sorted(p.relative_to(tmp_path / "first") for p in (tmp_path / "first").rglob("*.*"))
    assert len(files) > 2 * FRAMES
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_weights_are_reset_between_videos(config, monkeypatch):
    refiner = REFINERS["tta"]()
    monkeypatch.setitem(REFINERS, "tta", lambda: refiner)
    before = jax.tree.map(np.array, refiner.backbone.variables)
    alone = segment_video(moving_clip(FRAMES), refine=["tta"])
    segment_video(moving_clip(FRAMES, seed=20), refine=["tta"])
    again = segment_video(moving_clip(FRAMES), refine=["tta"])
    assert np.array_equal(alone.masks, again.masks)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, refiner.backbone.variables))


def test_shots_are_refined_apart(config, monkeypatch):
    use(monkeypatch, replace(config, steps=0))
    first, second = moving_clip(FRAMES), 255 - moving_clip(FRAMES, seed=10)
    both = segment_video(np.concatenate([first, second, moving_clip(1, seed=50)]), refine=["tta"])
    assert len(both.record["video"]["shots"]) == 3
    alone = segment_video(first, refine=["tta"])
    assert np.array_equal(both.masks[:FRAMES], alone.masks)


def test_the_ablations_differ(config, monkeypatch):
    # Bright objects: with random weights, the loss of others is at its bound and gives no gradient.
    frames = moving_clip(FRAMES) // 4
    frames += 150 * (square_masks(FRAMES) > 0)[..., None].astype(np.uint8)
    masks = []
    for changes in ({}, {"steps": 0}, {"steps": 0, "fuse_flow": False}):
        use(monkeypatch, replace(config, learning_rate=0.3, **changes))
        masks.append(segment_video(frames, refine=["tta"]).masks)
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[1], masks[2])
    assert VARIANTS["tta"] == TTAConfig() and VARIANTS["tta"].steps == 1000
    assert not VARIANTS["tta-frozen"].steps and VARIANTS["tta-frozen"].fuse_flow
    assert not (VARIANTS["tta-propagate"].steps or VARIANTS["tta-propagate"].fuse_flow)
    assert VARIANTS.keys() <= REFINERS.keys()


def test_features_of_a_long_video_stay_on_disk(config, monkeypatch, tmp_path):
    in_memory = segment_video(moving_clip(FRAMES), refine=["tta"])
    video = partial(RefinerVideo, feature_cache=FeatureCache(memory_limit=0))
    monkeypatch.setattr(pipeline, "RefinerVideo", video)
    streamed = segment_video(moving_clip(FRAMES), refine=["tta"])
    assert np.array_equal(in_memory.masks, streamed.masks)
    assert list((tmp_path / "caches" / "oclr_jax" / "features").glob("*.features"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_video(config, monkeypatch, tmp_path):
    """Features of a long video are on disk; here of every video."""
    use(monkeypatch, replace(config, steps=1))
    video = partial(RefinerVideo, feature_cache=FeatureCache(memory_limit=0))
    monkeypatch.setattr(pipeline, "RefinerVideo", video)
    frames = moving_clip(20).repeat(3, axis=1).repeat(3, axis=2)
    there_and_back = np.concatenate([frames, frames[-2:0:-1]])
    peaks = {}
    # The first run is not measured: it fills caches that stay.
    for length in (20, 20, 60):
        file = tmp_path / f"{length}.mp4"
        with video_writer(file, 24, *frames.shape[1:3]) as add_frame:
            for number in range(length):
                add_frame(there_and_back[number % len(there_and_back)])
        tracemalloc.start()
        output = tmp_path / str(length)
        record = segment_to_folder(file, output, refine=["tta"], overlay=False, overwrite=True)
        peaks[length] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(record["objects"]) >= 2
    # Of 40 frames more, each 160 KiB and its features 6 KiB, only the codes of masks may add up.
    assert peaks[60] - peaks[20] < 40 * 4 * 1024


def test_a_video_without_objects_needs_no_features(config, monkeypatch):
    monkeypatch.setattr(TTARefiner, "_refine_shot", None)
    still = np.repeat(moving_clip(1), FRAMES, axis=0)
    assert not segment_video(still, refine=["tta"]).masks.any()


@pytest.mark.parametrize("command", ["segment", "evaluate"])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_missing_weights_are_told_before_any_work(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    arguments = {
        "segment": ["segment", "no-such-video.mp4", str(tmp_path / "out")],
        "evaluate": ["evaluate", "--dataset", "davis2016", "--data", "no-such-data"],
    }
    assert cli.main([*arguments[command], "--refine", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("dino_deitsmall8_pretrain.pth", "github.com/facebookresearch/dino", "caches"):
        assert part in line
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_used(weights):
    with pytest.raises(UserError, match="patches of 8 pixels, which do not fill"):
        load_backbone(TTAConfig(weights=str(weights), short_side=100))
    with pytest.raises(UserError, match="3 blocks and 4 of them"):
        load_backbone(TTAConfig(weights=str(weights), blocks=4))
    with pytest.raises(UserError, match="weights for segmentation, and not for image features"):
        load_backbone(TTAConfig(weights="oclr-small"))


def test_the_time_of_each_part_is_printed(config, tmp_path, capsys):
    source = write_frames(tmp_path / "frames", moving_clip(3))
    arguments = ["segment", str(source), str(tmp_path / "out"), "--refine", "tta", "--no-overlay"]
    assert cli.main(arguments) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("tta:"))
    for part in ("s per frame", "features", "fine-tuning", "key frame", "propagation"):
        assert part in line


def test_an_evaluation_goes_on_with_the_next_video(config, tmp_path, monkeypatch):
    """What is adapted to is not adapted to again after a stop."""
    for name in ("one", "two"):
        write_frames(tmp_path / "data" / "JPEGImages" / name, moving_clip(FRAMES))
        folder = tmp_path / "data" / "Annotations" / name
        folder.mkdir(parents=True)
        for frame, ids in enumerate(square_masks(FRAMES)):
            write_ids(folder / f"{frame}.png", ids)
    adapted, score, refine = [], run.score_sequence, TTARefiner.__call__

    def watched(self, video, tracks):
        adapted.append(video.clip.name)
        return refine(self, video, tracks)

    def stopping(*arguments, **options):
        if len(adapted) == 2:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    monkeypatch.setattr(TTARefiner, "__call__", watched)
    command = ["evaluate", "--dataset", "folder", "--data", str(tmp_path / "data")]
    command += ["--output", str(tmp_path / "out"), "--refine", "tta", "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(run, "score_sequence", stopping)
        assert cli.main(command) == 130
    assert cli.main(command) == 0
    assert adapted == ["one", "two", "two"]

"""Refinement by SAM from end to end, with random weights at a small size."""

import json
import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax import cli, pipeline
from oclr_jax.evaluate import evaluate_dataset, format_table, run
from oclr_jax.models.parameters import unflatten
from oclr_jax.models.sam import FOREGROUND, SAMConfig, parameter_shapes
from oclr_jax.models.sam.frames import frame_logits, mask_logits
from oclr_jax.pipeline import segment_to_folder, segment_video
from oclr_jax.refine import sam
from oclr_jax.refine.refiner import REFINERS, open_refiners, refine_tracks
from oclr_jax.refine.sam_settings import POINTS, SAM_WEIGHTS
from oclr_jax.tracks import StoredMask, frame_masks
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights
from tests.clips import motion_segmenter, moving_clip, write_frames
from tests.datasets.miniatures import MINIATURES
from tests.refine.scenes import SceneVideo, box_masks, make_tracks

FRAMES = 5
TINY = SAMConfig(
    width=8, depth=1, heads=2, global_blocks=(), side=128, patch=16, window=3, channels=16,
    decoder_heads=2, decoder_hidden=8, quality_hidden=8, mask_channels=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    rng = np.random.default_rng(0)
    flat = {
        name: rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[:-1])))
        for name, shape in parameter_shapes(TINY).items()
    }
    path = tmp_path_factory.mktemp("sam") / "tiny.safetensors"
    save_weights(path, unflatten(flat), WeightsInfo(TINY, "tiny"), dtype="float32")
    return path


@pytest.fixture
def small(weights, monkeypatch, tmp_path):
    """`--refine sam` has the small model, and the flow model needs no weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    for room in (pipeline, run):
        monkeypatch.setattr(room, "load_segmenter", lambda *_: motion_segmenter())
    monkeypatch.setitem(SAM_WEIGHTS, "sam", str(weights))


def answer_with_the_prompt(monkeypatch):
    """Stands for a model that has nothing to correct; returns the prompts that it was given."""
    seen = []

    def decode(variables, embedding, prompts, config, height, width):
        seen.append(prompts)
        return frame_logits(jnp.asarray(prompts.masks), height, width, config.side)

    monkeypatch.setattr(sam, "decode_prompts", decode)
    return seen


def two_boxes() -> np.ndarray:
    """`[t h w 2]`: the box that moves and one that stands, which it covers in part."""
    masks = np.stack([box_masks(FRAMES)] * 2, axis=-1)
    masks[..., 1] = 0.02
    masks[:, 12:30, 14:40, 1] = 0.97
    return masks


def test_results_of_a_run_name_the_refiner_and_the_annotation(small, tmp_path):
    source = write_frames(tmp_path / "frames", moving_clip(FRAMES))
    plain = segment_video(source, refine=())
    record = segment_to_folder(source, tmp_path / "out", refine=["sam"])
    settings = json.loads((tmp_path / "out" / "objects.json").read_text())["settings"]
    (refiner,) = settings["refiners"]
    assert settings["human_annotation"] == "used" and refiner["human_annotation"] is True
    assert plain.record["settings"]["human_annotation"] == "none"
    assert (refiner["name"], refiner["weights"], refiner["precision"]) == ("sam", "tiny", "float32")
    assert {entry["id"] for entry in record["objects"]} <= set(plain.amodal)
    again = segment_video(source, refine=["sam"])
    assert again.record["objects"] == record["objects"], "the same, from stored embeddings"
    assert (again.masks != plain.masks).any()


def test_an_evaluation_says_that_annotation_was_used(small, tmp_path):
    MINIATURES["davis2016"](tmp_path / "data")
    protocols = ("paper", "sequence-oracle")
    report = evaluate_dataset(
        "davis2016", tmp_path / "data", refine=["sam"], protocols=protocols, output=tmp_path / "out"
    )
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["human_annotation"] == "used"
    assert "human annotation used" in format_table(report)
    page = (tmp_path / "out" / "report.html").read_text()
    rows = [row for row in re.findall("<tr[^>]*>.*?</tr>", page, re.S) if "this run" in row]
    # Windows are scored as the flow model predicts them, without the refiner.
    # The last two are those of the geometric baseline.
    assert ["+ sam" in row for row in rows] == [False, True, False, False]
    assert ["<td>yes</td>" in row for row in rows] == [False, True, False, False]
    masks = tmp_path / "out" / "masks" / "tracks"
    scored = evaluate_dataset("davis2016", tmp_path / "data", results=masks)
    assert scored["human_annotation"] is None, "of masks on disk it is not known"


def test_every_object_is_prompted_with_its_mask_and_points_inside(small, monkeypatch):
    prompts = answer_with_the_prompt(monkeypatch)
    video, tracks = SceneVideo(FRAMES), make_tracks(two_boxes())
    (refiner,) = open_refiners(["sam"])
    refined = refine_tracks([refiner], video, tracks)
    assert len(prompts) == FRAMES, "all objects of a frame together"
    for frame, given in enumerate(prompts):
        assert given.boxes is None and given.masks.shape == (sam.PROMPTS, 32, 32)
        assert given.points.shape == (sam.PROMPTS, POINTS, 2)
        assert (given.labels == FOREGROUND).all()
        # The other one is visible where the first, in front of it, is not.
        first, other = (soft[frame] for soft in np.moveaxis(two_boxes(), -1, 0))
        for k, soft in enumerate((first, other * (1 - first))):
            expected = mask_logits(soft, 64, 128, TINY)
            np.testing.assert_allclose(given.masks[k], expected, atol=0.1)
            x, y = ((given.points[k] + 0.5) / 4).astype(int).T
            assert (given.masks[k][y, x] > 0).all()
    # The answer is the prompt, so the masks stay, but for the coarse grid.
    for frame in range(FRAMES):
        before, after = (frame_masks(t, frame, 64, 128)[0] for t in (tracks, refined))
        assert (before != after).mean() < 0.03
        assert refined[0].modal[frame].shape == (64, 128)
        assert refined[0].amodal[frame] == tracks[0].amodal[frame]


def test_it_takes_what_the_refiner_before_it_left(small, monkeypatch):
    """As after `appearance`, `tta` and `crf`, which set modal probabilities."""
    prompts = answer_with_the_prompt(monkeypatch)

    class Shrink:
        name = "shrink"

        def settings(self):
            return {}

        def __call__(self, video, tracks):
            soft = np.where(np.arange(128) < 14, 0.9, 0.1).astype(np.float32)
            soft = np.broadcast_to(soft, (64, 128))
            return [
                replace(
                    track,
                    modal={f: StoredMask.encode(soft > 0.5, soft) for f in range(FRAMES)},
                    modal_probability={f: video.store_probability(soft) for f in range(FRAMES)},
                )
                for track in tracks
            ]

    monkeypatch.setitem(REFINERS, "shrink", Shrink)
    video, tracks = SceneVideo(FRAMES), make_tracks(box_masks(FRAMES)[..., None])
    refined = refine_tracks(open_refiners(["shrink", "sam"]), video, tracks)
    assert (prompts[0].masks[0, :, 5:] < 0).all() and (prompts[0].masks[0] > 0).any()
    assert refined[0].modal_probability[0].shape == (64, 128)
    for names in (["crf", "sam"], ["sam", "crf"]):
        assert [each.name for each in open_refiners(names)] == names


def test_missing_objects_and_lost_ones_keep_what_they_have(small, monkeypatch):
    masks = two_boxes()
    masks[3, ..., 1] = 0.1  # not found by the flow model
    video, tracks = SceneVideo(FRAMES), make_tracks(masks)
    (refiner,) = open_refiners(["sam"])

    def nothing(variables, embedding, prompts, config, height, width):
        return jnp.full((len(prompts.masks), height, width), -1.0)

    monkeypatch.setattr(sam, "decode_prompts", nothing)
    assert refine_tracks([refiner], video, tracks) == tracks
    answer_with_the_prompt(monkeypatch)
    refined = refine_tracks([refiner], video, tracks)
    assert 3 not in refined[1].modal and 2 in refined[1].modal
    assert refine_tracks([refiner], video, []) == []


def test_overlapping_answers_go_to_the_larger_logit(small, monkeypatch):
    def overlapping(variables, embedding, prompts, config, height, width):
        logits = np.full((len(prompts.masks), height, width), -1.0, np.float32)
        logits[0, :, :80], logits[1, :, 40:] = 1.0, 2.0
        return logits

    monkeypatch.setattr(sam, "decode_prompts", overlapping)
    video, tracks = SceneVideo(FRAMES), make_tracks(two_boxes())
    first, other = refine_tracks(open_refiners(["sam"]), video, tracks)
    assert first.modal[0].decode()[0].sum() == 40 and other.modal[0].decode()[0].sum() == 88
    soft = other.modal_probability[0].decode()
    np.testing.assert_allclose(soft[:, 40:], 1 / (1 + np.exp(-2)), atol=0.01)


def test_the_encoder_runs_once_per_frame(small, monkeypatch):
    count = []
    encode = sam._encode
    monkeypatch.setattr(sam, "_encode", lambda *inputs: count.append(1) or encode(*inputs))
    video, (refiner,) = SceneVideo(FRAMES), open_refiners(["sam"])
    for _ in range(2):
        refine_tracks([refiner], video, make_tracks(two_boxes()))
    assert len(count) == FRAMES


@pytest.mark.parametrize("command", ["segment", "evaluate"])
@pytest.mark.parametrize("name", list(SAM_WEIGHTS))
def test_missing_weights_are_told_before_any_work(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    arguments = {
        "segment": ["segment", "no-such-video.mp4", str(tmp_path / "out")],
        "evaluate": ["evaluate", "--dataset", "davis2016", "--data", "no-such-data"],
    }
    assert cli.main([*arguments[command], "--refine", f"self,{name}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    page = "SysCV/sam-hq" if "hq" in name else "facebookresearch/segment-anything"
    for part in (f"{SAM_WEIGHTS[name]}.pth", f"github.com/{page}", "caches"):
        assert part in line
    assert not (tmp_path / "out").exists()

"""`--refine select,correct`: which masks are exemplars, what the models see, and what comes out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax import cli, pipeline
from oclr_jax.errors import UserError
from oclr_jax.mask_folder import read_tracks
from oclr_jax.models import corrector, dino, selector
from oclr_jax.models.parameters import flatten
from oclr_jax.ops.metrics import jaccard
from oclr_jax.ops.selection import (
    frame_windows,
    one_object_per_pixel,
    select_exemplars,
    take_frames,
    take_own_frames,
)
from oclr_jax.pipeline import segment_video
from oclr_jax.refine import appearance_models, correct
from oclr_jax.refine.appearance_models import load_appearance_model
from oclr_jax.refine.refiner import RefinerVideo, open_refiners, refine_tracks
from oclr_jax.refine.select import judge_masks, select_frames
from oclr_jax.refine.votes import shot_agreement
from oclr_jax.torch_import.names_corrector import corrector_entries, dead_shapes
from oclr_jax.torch_import.names_dino import dino_entries
from oclr_jax.torch_import.names_selector import selector_entries
from oclr_jax.video.clip import open_clip
from oclr_jax.video.png import read_ids, write_ids
from oclr_jax.video.resize import resize_image, resize_mask
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights
from tests.clips import motion_segmenter, moving_clip, write_frames
from tests.refine.scenes import HEIGHT, WIDTH, SceneVideo, box_masks, make_tracks
from tests.torch_import import torch_writer

FRAMES = 5
SIZE = (32, 48)
SELECTOR = selector.SelectorConfig(
    frames=4, exemplars=3, height=32, width=48, channels=(4, 4, 8), layers=1, heads=2,
    feedforward=8, backbone="own", feature_channels=8,
)  # fmt: skip
CORRECTOR = corrector.CorrectorConfig(
    objects=2, backgrounds=1, frames=3, exemplars=3, height=32, width=48, channels=(4, 4, 8),
    layers=1, heads=2, feedforward=8, backbone="own", feature_channels=8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_weights_and_a_motion_model(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with random weights of both models."""
    folder = tmp_path_factory.mktemp("refine")
    for kind, module, config in (
        ("selector", selector, SELECTOR),
        ("corrector", corrector, CORRECTOR),
    ):
        params = jax.jit(lambda module=module, config=config: module.init_params(config, 0))()
        info = WeightsInfo(config, f"tiny-{kind}")
        save_weights(folder / f"{kind}.safetensors", params, info, dtype="float32")
    return folder


def masks_of(frames: int, ids=(1, 7, 200)) -> np.ndarray:
    """Squares with these ids in rows of their own; frame 2 has none of them."""
    masks = np.zeros((frames, 64, 96), np.uint8)
    height = 64 // len(ids)
    for t in range(frames):
        for row, id in enumerate(ids):
            masks[t, row * height + 2 : (row + 1) * height - 2, 10 + 4 * t : 40 + 4 * t] = id
    masks[2] = 0
    return masks


@pytest.fixture
def folders(tmp_path):
    """Frames, and masks of three objects; the frame without objects has no file."""
    source = write_frames(tmp_path / "frames", moving_clip(FRAMES))
    (tmp_path / "masks").mkdir()
    for frame, ids in enumerate(masks_of(FRAMES)):
        if ids.any():
            write_ids(tmp_path / "masks" / f"{frame}.png", ids)
    return source, tmp_path / "masks"


def mask_tracks(folders):
    clip = open_clip(folders[0])
    video = RefinerVideo(clip, (), (clip.height, clip.width))
    return video, read_tracks(video, folders[1])


def keep_masks(config):
    """A stand-in for the compiled corrector: returns the masks that it is given."""
    return lambda params, images, masks, *rest: masks


def test_appearance_refines_every_frame_and_keeps_the_ids(weights):
    frames = moving_clip(FRAMES)
    plain = segment_video(frames)
    refined = segment_video(frames, refine=["appearance"], refine_weights=weights)
    first, second = refined.record["settings"]["refiners"]
    assert (first["name"], first["weights"]) == ("select", "tiny-selector")
    assert (second["name"], second["weights"], second["window"]) == ("correct", "tiny-corrector", 3)
    assert second["backbone"] == "own"
    assert set(np.unique(refined.masks)) <= {0, *plain.amodal}
    assert list(refined.amodal) == list(plain.amodal)


def test_masks_of_any_program_are_refined(tmp_path, folders, weights, monkeypatch):
    monkeypatch.setattr(correct, "_compile", keep_masks)
    command = ["refine", *map(str, folders), str(tmp_path / "out"), "--refine", "select,correct"]
    command += ["--refine-weights", str(weights), "--quiet"]
    assert cli.main(command) == 0
    found = np.stack([read_ids(tmp_path / "out" / f"{t}.png") for t in range(FRAMES)])
    # Three objects in groups of two, at half the resolution and back.
    assert found.shape == masks_of(FRAMES).shape
    assert (found != masks_of(FRAMES)).mean() < 0.02
    assert set(np.unique(found)) == {0, 1, 7, 200}
    record = json.loads((tmp_path / "out" / "refinement.json").read_text())
    assert record["objects"] == [1, 7, 200]
    assert [each["name"] for each in record["refiners"]] == ["select", "correct"]
    assert cli.main(command) == 2
    assert cli.main([*command, "--overwrite"]) == 0


@pytest.mark.parametrize(("keep_steady", "worse"), [(True, True), (True, False), (False, True)])
def test_an_object_that_would_become_less_steady_can_be_left_as_it_was(
    weights, monkeypatch, keep_steady, worse
):
    """Flicker is not taken for a correction; what removes it is."""
    steady = box_masks(9)
    flicker = steady.copy()
    flicker[::2, :, WIDTH // 3 :] = 0.02
    before, after = (steady, flicker) if worse else (flicker, steady)

    def corrected(config):
        def correct(params, images, masks, features, exemplars, frames):
            found = np.zeros(masks.shape, np.float32)
            for i, frame in enumerate(frames[0]):
                found[0, i, ..., 0] = resize_image(after[frame], *SIZE)
            return found

        return correct

    monkeypatch.setattr(correct, "_compile", corrected)
    model = load_appearance_model("corrector", weights)
    config = dataclasses.replace(model.config, keep_steady=keep_steady)
    refiner = correct.Correct(model=dataclasses.replace(model, config=config))
    (track,) = make_tracks(before[..., None])
    track.quality.update(dict.fromkeys(range(9), 0.0))
    (found,) = refine_tracks([refiner], SceneVideo(9), [track])
    if keep_steady and worse:
        assert found.modal == track.modal
    else:
        masks = np.stack([found.modal[frame].decode() for frame in range(9)])
        assert (masks != [resize_mask(each > 0.5, *SIZE) for each in after]).mean() < 0.02


def test_an_object_of_some_frames_is_judged_in_these_frames():
    """Found everywhere, but with flicker where it was steady."""
    before = np.full((24, HEIGHT, WIDTH), 0.02, np.float32)
    before[8:16] = box_masks(24)[8:16]
    after = box_masks(24)
    after[8:16:2, :16] = 0.02
    video = SceneVideo(24)
    tracks = [make_tracks(masks[..., None])[0] for masks in (before, after)]
    mean = [shot_agreement(video, [track], range(24)).mean() for track in tracks]
    assert mean[1] > mean[0] and not correct._is_as_steady(video, *tracks)
    assert correct._is_as_steady(video, tracks[0], make_tracks(box_masks(24)[..., None])[0])


def test_the_weights_of_the_package_find_lost_objects_again():
    """Half of the box is missing in every third frame, and all of it in one."""
    masks = box_masks(12)
    masks[1::3, :16] = masks[7] = 0.02
    (given,) = make_tracks(masks[..., None])
    (track,) = refine_tracks(open_refiners(["appearance"]), SceneVideo(12), [given])
    found = np.stack([resize_mask(track.modal[frame].decode(), 32, 64) for frame in range(12)])
    before, after = (jaccard(each > 0.5, box_masks(12) > 0.5) for each in (masks, found))
    assert before[7] == 0 and after[7] > 0.8
    assert after.mean() > before.mean() + 0.08 and after.min() > 0.55


def test_the_corrector_sees_exemplars_of_the_whole_shot(folders, weights, monkeypatch):
    seen = []

    def spy(config):
        def correct(params, images, masks, features, exemplars, frames):
            seen.append((frames[0].tolist(), exemplars))
            return masks

        return correct

    monkeypatch.setattr(correct, "_compile", spy)
    video, tracks = mask_tracks(folders)
    judged = refine_tracks(open_refiners(["select"], weights), video, tracks)
    refine_tracks(open_refiners(["correct"], weights), video, judged)
    windows = [frames for frames, _ in seen]
    assert windows == [[0, 1, 2]] * 2 + [[2, 3, 4]] * 2  # two groups in each window
    for place, track in ((0, judged[0]), (1, judged[1])):
        exemplars = seen[0][1]
        chosen = select_frames(track.quality, 3)
        assert exemplars.frames[0, :, place].tolist() == chosen
        assert exemplars.valid[0, :, place].all()
        order = np.argsort(exemplars.scores[0, :, place])
        assert order.tolist() == np.argsort([track.quality[f] for f in chosen]).tolist()
        for i, frame in enumerate(chosen):
            mask = resize_mask(masks_of(FRAMES)[frame] == track.id, *SIZE)
            assert np.mean(mask != exemplars.masks[0, i, ..., place]) < 0.02
    # The second group has one object; its other place has no exemplars.
    alone = seen[1][1]
    assert alone.valid[0, :, 0].all() and not alone.valid[0, :, 1].any()


def test_a_shot_longer_than_a_pass_is_judged_in_every_frame(folders, weights):
    video, tracks = mask_tracks(folders)
    model = load_appearance_model("selector", weights)
    found = judge_masks(model, video, tracks, tracks[0], range(FRAMES), with_errors=True)
    assert list(found) == list(range(FRAMES))
    assert all(error.shape == (*SIZE, 3) for _, error in found.values())
    # An empty mask is the worst one by far.
    assert min(found, key=lambda frame: found[frame][0]) == 2


def test_select_prints_scores_and_draws_a_sheet(tmp_path, folders, weights, capsys):
    sheet = tmp_path / "sheet.png"
    options = ["--sheet", str(sheet), "--refine-weights", str(weights), "--quiet"]
    assert cli.main(["select", *map(str, folders), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3 * FRAMES
    assert sum(line.endswith("*") for line in lines[1:]) == 3 * SELECTOR.exemplars
    assert sheet.stat().st_size > 1000


@pytest.mark.parametrize(
    ("names", "folder", "says"),
    [
        (["correct"], "weights", "needs select before it"),
        (["appearance"], None, "no weights of the selector"),
        (["appearance"], "missing", "no folder"),
        (["appearance"], "empty", "has 0 files of weights with selector"),
    ],
)
def test_what_is_missing_is_said(tmp_path, weights, monkeypatch, names, folder, says):
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(appearance_models, "SHIPPED", tmp_path)
    place = {"weights": weights, None: None}.get(folder, tmp_path / str(folder))
    with pytest.raises(UserError, match=says):
        segment_video(moving_clip(FRAMES), refine=names, refine_weights=place)


def test_weights_without_a_refiner_that_uses_them_are_refused(weights):
    with pytest.raises(UserError, match="No refiner uses --refine-weights"):
        open_refiners([], weights)


@pytest.mark.parametrize("wrong", ["names", "size", "empty"])
def test_masks_that_do_not_fit_the_video_are_refused(tmp_path, folders, weights, capsys, wrong):
    source, masks = folders
    for path in masks.iterdir():
        if wrong == "names":
            path.rename(path.with_name(f"x{path.name}"))
        else:
            write_ids(path, np.zeros((64, 96) if wrong == "empty" else (32, 48), np.uint8))
    command = ["refine", str(source), str(masks), str(tmp_path / "out"), "--refine", "appearance"]
    assert cli.main([*command, "--refine-weights", str(weights)]) == 2
    says = {"names": "no mask for any frame", "size": "48x32", "empty": "are empty"}[wrong]
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- released checkpoints: the published pipeline, step by step, with random weights


def random_file(path, entries, shapes, dead=()):
    rng = np.random.default_rng(len(shapes))
    sizes = {name: entry.torch_shape(shapes) for name, entry in entries.items()} | dict(dead)
    state = {
        name: (rng.normal(size=size) / max(1, np.prod(size[1:])) ** 0.5).astype(np.float32)
        for name, size in sizes.items()
    }
    torch_writer.save_state_zip(path, state)


@pytest.mark.slow
def test_released_files_reproduce_the_published_pipeline(tmp_path, monkeypatch):
    """Selection, exemplars, windows and hard masks as in the published program's main loop."""
    folder, cache = tmp_path / "released", tmp_path / "caches" / "oclr_jax" / "weights"
    folder.mkdir()
    cache.mkdir(parents=True)
    select = selector.SelectorConfig(
        channels=(4, 4, 4, 4, 8), layers=1, feedforward=8, feature_channels=64
    )
    fix = corrector.CorrectorConfig(
        channels=(4, 4, 4, 8), layers=1, feedforward=8, feature_channels=64
    )
    entries, shapes = selector_entries(select), selector.parameter_shapes(select)
    random_file(folder / "selector.pth", entries, shapes)
    entries, shapes = corrector_entries(fix), corrector.parameter_shapes(fix)
    random_file(folder / "corrector.pth", entries, shapes, dead_shapes(fix))
    for patch, name in ((16, "dino_deitsmall16_pretrain"), (8, "dino_deitsmall8_pretrain")):
        model = dino.DINOConfig(patch=patch, width=64, depth=1, heads=1)
        shapes = dino.parameter_shapes(model)
        random_file(cache / f"{name}.pth", dino_entries(model), shapes)

    frames, ids = moving_clip(12), np.concatenate([masks_of(6), masks_of(6)])
    source = write_frames(tmp_path / "frames", frames)
    for frame, each in enumerate(ids):
        (tmp_path / "masks").mkdir(exist_ok=True)
        write_ids(tmp_path / "masks" / f"{frame}.png", each)
    video, tracks = mask_tracks((source, tmp_path / "masks"))
    refiners = open_refiners(["appearance"], folder)
    refined = refine_tracks(refiners, video, tracks)

    size = (128, 224)
    small = np.stack([resize_image(frame, *size) for frame in frames]).astype(np.float32) / 255
    images = dino.normalize_images(jnp.asarray(small))[None]
    masks = np.stack(
        [[resize_mask(each == id, *size) for id in (1, 7, 200)] for each in ids]
    ).astype(np.float32)
    masks = jnp.asarray(np.moveaxis(masks, 1, -1))[None]
    features = []
    for model in (refiners[0].model, refiners[1].model):
        (tokens,) = dino.DINO(model.backbone.config).apply(model.backbone.variables, images[0])
        tokens = tokens[:, 1:].astype(jnp.float16).astype(jnp.float32)
        features.append(tokens.reshape(1, 12, *model.config.grid, 64))
    params = refiners[0].model.params
    apply = jax.jit(selector.Selector(select).apply)
    output = apply({"params": params}, images, masks, features[0])
    for k, track in enumerate(refined):
        np.testing.assert_allclose(
            [track.quality[frame] for frame in range(12)], output.quality[0, :, k], rtol=1e-3
        )
    scores = jax.nn.softmax(output.quality, axis=1)
    index, valid = select_exemplars(scores, 10)
    own = take_own_frames(jnp.moveaxis(masks, -1, 2), index)
    exemplars = corrector.Exemplars(
        take_frames(features[1], index),
        jnp.moveaxis(own, 2, -1),
        take_own_frames(scores, index),
        index,
        valid,
    )
    probability = np.zeros((12, *size, 3), np.float32)
    apply = jax.jit(corrector.Corrector(fix).apply)
    for window in frame_windows(12, 7):
        at = jnp.asarray(window)
        inputs = (images[:, at], masks[:, at], features[1][:, at], exemplars, at[None])
        logits = apply({"params": refiners[1].model.params}, *inputs).mask_logits
        probability[window] = jax.nn.sigmoid(logits[0])
    hard = np.asarray(one_object_per_pixel(jnp.asarray(probability)))
    found = np.stack([[t.modal[f].decode() for t in refined] for f in range(12)])
    assert (np.moveaxis(found, 1, -1) != hard).mean() < 1e-3
    soft = refined[0].modal_probability[5].decode()
    np.testing.assert_allclose(soft, probability[5, ..., 0], atol=0.01)
    assert flatten(params)

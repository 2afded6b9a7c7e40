"""`oclr propagate`: one mask is carried over a video; random weights at a small size."""

import json

import cv2
import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.models.dino import DINOConfig, parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.propagate import propagate_to_folder
from oclr_jax.video.png import read_ids, write_ids, write_png
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights
from tests.clips import moving_clip, square_masks, write_frames

FRAMES = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TTAConfig:
    model, rng = DINOConfig(patch=8, width=16, depth=3, heads=2), np.random.default_rng(0)
    flat = {
        name: rng.standard_normal(shape, np.float32) * (0.3 if len(shape) > 1 else 1)
        for name, shape in parameter_shapes(model).items()
    }
    path = tmp_path_factory.mktemp("dino") / "tiny.safetensors"
    save_weights(path, unflatten(flat), WeightsInfo(model, "tiny"), dtype="float32")
    return TTAConfig(weights=str(path), short_side=64, long_multiple=32, radius=3)


@pytest.fixture
def inputs(tmp_path):
    """A video, its mask with the ids 2 and 5, and an output folder."""
    ids = np.array([0, 2, 5], np.uint8)[square_masks(FRAMES)[0]]
    write_ids(tmp_path / "mask.png", ids)
    video = write_frames(tmp_path / "frames", moving_clip(FRAMES))
    return video, tmp_path / "mask.png", tmp_path / "out"


def test_ids_stay_those_of_the_mask(config, inputs):
    video, mask, output = inputs
    record = propagate_to_folder(video, mask, output, config=config)
    assert sorted(path.name for path in output.iterdir()) == [
        "masks",
        "objects.json",
        "overlay.mp4",
    ]
    found = [read_ids(output / "masks" / f"{frame}.png") for frame in range(FRAMES)]
    assert np.array_equal(found[0], read_ids(mask))
    assert all(frame.shape == (64, 96) for frame in found)
    assert all(set(np.unique(frame)) == {0, 2, 5} for frame in found)
    assert any(not np.array_equal(frame, found[0]) for frame in found[1:])
    assert [entry["id"] for entry in record["objects"]] == [2, 5]
    for entry in record["objects"]:
        assert [f["area"] for f in entry["frames"]] == [
            (frame == entry["id"]).sum() for frame in found
        ]
        assert all(0 < f["score"] <= 1 for f in entry["frames"])
    settings = record["settings"]
    assert (settings["propagated_from"], settings["weights"]) == ("mask.png", "tiny")
    assert (settings["previous"], settings["radius"]) == (7, 3)
    assert json.loads((output / "objects.json").read_text()) == record


def test_the_masks_follow_a_plain_object(config, tmp_path):
    """A bright square on black, whose features nothing else has."""
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    for frame, image in enumerate(frames):
        image[16:48, 16 + 8 * frame : 48 + 8 * frame] = (250, 200, 90)
    write_png(tmp_path / "mask.png", (frames[0, ..., 0] > 0) * np.uint8(255))
    source = write_frames(tmp_path / "frames", frames)
    output = tmp_path / "out"
    propagate_to_folder(source, tmp_path / "mask.png", output, overlay=False, config=config)
    assert not (output / "overlay.mp4").exists()
    last = read_ids(output / "masks" / "4.png")
    assert set(np.unique(last)) == {0, 1}, "white is object 1"
    truth = frames[4, ..., 0] > 0
    assert ((last == 1) & truth).sum() / ((last == 1) | truth).sum() > 0.6


def test_the_same_input_gives_the_same_bytes(config, inputs, tmp_path):
    video, mask, _ = inputs
    for name in ("first", "second"):
        propagate_to_folder(video, mask, tmp_path / name, config=config)
    for path in (tmp_path / "first").rglob("*.*"):
        other = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert path.read_bytes() == other.read_bytes()


def test_masks_that_cannot_be_used(config, inputs, tmp_path):
    video, mask, output = inputs
    write_ids(tmp_path / "empty.png", np.zeros((64, 96), np.uint8))
    write_ids(tmp_path / "small.png", np.ones((32, 48), np.uint8))
    cv2.imwrite(str(tmp_path / "colour.png"), moving_clip(1)[0])
    for name, message in {
        "empty.png": "is empty; give the objects",
        "small.png": "has 48x32 pixels and the video has 96x64",
        "colour.png": "is a picture of mode RGB",
        "missing.png": "Cannot read the mask",
    }.items():
        with pytest.raises(UserError, match=message):
            propagate_to_folder(video, tmp_path / name, output, config=config)
        assert not output.exists()
    propagate_to_folder(video, mask, output, overlay=False, config=config)
    with pytest.raises(UserError, match="already"):
        propagate_to_folder(video, mask, output, config=config)


def test_missing_weights_are_told_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ["propagate", "no-such.mp4", "no-such.png", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "dino_deitsmall8_pretrain.pth" in line and "github.com/facebookresearch/dino" in line
    assert not (tmp_path / "out").exists()


def test_the_command_passes_its_options_on(monkeypatch, tmp_path, capsys, inputs, config):
    video, mask, output = inputs
    monkeypatch.setattr(
        "oclr_jax.propagate.TTAConfig",
        lambda: TTAConfig(short_side=64, long_multiple=32, radius=3),
    )
    arguments = ["propagate", str(video), str(mask), str(output), "--weights", config.weights]
    assert cli.main([*arguments, "--no-overlay", "--precision", "bfloat16"]) == 0
    (line,) = (x for x in capsys.readouterr().err.splitlines() if x.startswith("propagate:"))
    assert "features" in line and "propagation" in line and "writing" in line
    record = json.loads((output / "objects.json").read_text())
    assert record["settings"]["precision"] == "bfloat16"
    assert not (output / "overlay.mp4").exists()

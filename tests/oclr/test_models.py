"""The choice of the model: baselines take the same path as OCLR and give the same output."""

import cv2
import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_dataset, format_table
from oclr_jax.evaluate.table import describe
from oclr_jax.oclr.predict import _LOADERS, load_segmenter
from oclr_jax.pipeline import segment_video
from oclr_jax.types import MODELS
from oclr_jax.video.png import write_ids
from tests.clips import texture, write_frames

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


def test_a_baseline_segments_a_video():
    video, masks = moving_square()
    result = segment_video(video, model="geometric")
    found, truth = result.masks > 0, masks > 0
    assert (found & truth).sum() / (found | truth).sum() > 0.6
    settings = result.record["settings"]
    assert settings["model"] == settings["weights"] == "geometric"
    assert settings["flow"]["estimator"] == "dis"


def test_a_baseline_is_evaluated(tmp_path, capsys):
    video, masks = moving_square()
    write_frames(tmp_path / "JPEGImages" / "pan", video)
    (tmp_path / "Annotations" / "pan").mkdir(parents=True)
    for number, mask in enumerate(masks):
        write_ids(tmp_path / "Annotations" / "pan" / f"{number}.png", mask)
    protocols = ["paper", "sequence-oracle"]
    arguments = {"flow": "dis:fast", "protocols": protocols, "model": "geometric"}
    report = evaluate_dataset("folder", tmp_path, **arguments)
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


def test_what_cannot_be_loaded():
    with pytest.raises(UserError, match="geometric has no weights; leave out --weights"):
        load_segmenter("some.safetensors", model="geometric")
    with pytest.raises(UserError, match="no model 'yolo'; choose from oclr, geometric"):
        load_segmenter(model="yolo")

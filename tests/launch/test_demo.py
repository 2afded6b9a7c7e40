"""The demo: its scores against masks whose J is known, its pictures, and what it does when asked
for the impossible.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.synthetic import SceneConfig
from launch import demo
from oclr_jax.video.png import write_ids, write_png

ROOT = Path(__file__).resolve().parents[2]
SQUARE, BAR = np.s_[2:10, 2:10], np.s_[4:6, 0:24]  # on a grid of 16 x 24, the square in front


def truth() -> dict:
    amodal = np.zeros((2, 16, 24, 3), np.uint8)
    amodal[:, *SQUARE, 0] = 1
    amodal[:, *BAR, 1] = 1
    segmentations = np.where(amodal[..., 0], 1, 2 * amodal[..., 1]).astype(np.uint8)
    order = np.array([0, 1, -1], np.int32)
    return {"amodal": amodal, "segmentations": segmentations, "layer_order": order}


def write_result(folder: Path, modal: np.ndarray, amodal: dict[int, np.ndarray]) -> dict:
    """Lays out a result of two frames at twice the truth's size; returns its record."""
    for name in ("masks", *(f"amodal/{id}" for id in amodal)):
        (folder / name).mkdir(parents=True)
    for frame in range(2):
        write_ids(folder / "masks" / f"{frame:05d}.png", modal[frame].repeat(2, 0).repeat(2, 1))
        for id, mask in amodal.items():
            path = folder / "amodal" / str(id) / f"{frame:05d}.png"
            if mask[frame].any():
                write_png(path, 255 * mask[frame].repeat(2, 0).repeat(2, 1))
    objects = [{"id": id, "depth_rank": rank} for rank, id in enumerate(amodal)]
    return {"video": {"frames": 2, "height": 32, "width": 48}, "objects": objects}


def test_perfect_masks_score_one_whatever_their_ids(tmp_path: Path, capsys):
    sample = truth()
    modal = np.array([0, 2, 1], np.uint8)[sample["segmentations"]]
    amodal = {2: sample["amodal"][..., 0], 1: sample["amodal"][..., 1]}
    demo.print_scores(tmp_path, write_result(tmp_path, modal, amodal), sample)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        "  object 0: modal 1.000, amodal 1.000 (id 2, depth rank 0)",
        "  object 1: modal 1.000, amodal 1.000 (id 1, depth rank 1)",
    ]


def test_scores_of_half_a_shape_and_of_a_missing_object(tmp_path: Path, capsys):
    sample = truth()
    half = np.zeros((2, 16, 24), np.uint8)
    half[:, 2:10, 2:6] = 1
    demo.print_scores(tmp_path, write_result(tmp_path, half, {1: half}), sample)
    out = capsys.readouterr().out
    assert "object 0: modal 0.500, amodal 0.500" in out
    assert "object 1: not found, J 0" in out


def test_a_frame_without_the_object_has_no_file(tmp_path: Path, capsys):
    sample = truth()
    modal = sample["segmentations"].copy()
    modal[1] = 0
    amodal = {1: sample["amodal"][..., 0].copy(), 2: sample["amodal"][..., 1].copy()}
    for mask in amodal.values():
        mask[1] = 0
    demo.print_scores(tmp_path, write_result(tmp_path, modal, amodal), sample)
    out = capsys.readouterr().out
    assert "object 0: modal 0.500, amodal 0.500" in out
    assert "object 1: modal 0.500, amodal 0.500" in out


def test_clip_goes_in_and_pictures_come_out(tmp_path: Path, capsys, monkeypatch):
    clip = SceneConfig(frames=4, render_height=64, render_width=96)
    monkeypatch.setattr(demo, "CLIP", clip)
    monkeypatch.setattr(demo, "OUTPUT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo.sh"])
    assert demo.main() == 0
    out = capsys.readouterr().out
    assert "J against the clip's ground truth" in out
    for name in ("overlay.mp4", "contact_sheet.png"):
        assert str(tmp_path / "clip" / name) in out
        assert (tmp_path / "clip" / name).stat().st_size > 0


def test_missing_video_is_status_2(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "OUTPUT", tmp_path / "output")
    monkeypatch.setattr(sys, "argv", ["demo.sh", str(tmp_path / "missing.mp4")])
    assert demo.main() == 2
    assert "missing.mp4" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("script", ["demo.sh", "test.sh"])
def test_scripts_say_when_there_is_no_python(script: str):
    environment = os.environ | {"PYTHON": "no-such-python"}
    command = ["bash", ROOT / "launch" / script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Python 3.11" in done.stderr

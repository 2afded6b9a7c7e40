"""Evaluations side by side: what is shown, in which order, and what cannot be compared."""

import json

import cv2
import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.evaluate.comparison import disagreement
from oclr_jax.video.png import write_ids

FRAMES = 6


def make_data(root):
    """Two sequences with a square each."""
    for name in ("calm", "wild"):
        for frame in range(FRAMES):
            for folder in ("JPEGImages", "Annotations"):
                (root / folder / name).mkdir(parents=True, exist_ok=True)
            image = np.full((40, 60, 3), 90, np.uint8)
            cv2.imwrite(str(root / "JPEGImages" / name / f"{frame:03d}.jpg"), image)
            write_ids(root / "Annotations" / name / f"{frame:03d}.png", square(2))
    return root


def square(left):
    ids = np.zeros((40, 60), np.uint8)
    ids[8:28, left : left + 20] = 1
    return ids


def make_run(folder, wild_j, wild_lefts, title="mine", protocols=("union",)):
    for name, lefts in (("calm", [2] * FRAMES), ("wild", wild_lefts)):
        for frame, left in enumerate(lefts):
            path = folder / "masks" / "tracks" / name / f"{frame:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_ids(path, square(left))
    entry = {name: {"calm": {"J": 0.9}, "wild": {"J": wild_j}} for name in protocols}
    report = {
        "dataset": "folder",
        "title": title,
        "results": None,
        "model": "oclr",
        "weights": "oclr-small",
        "precision": "float32",
        "flow": {"estimator": "dis"},
        "gap": 1,
        "refiners": [{"name": folder.name}],
        "human_annotation": "not used",
        "mean": {name: {"J": (0.9 + wild_j) / 2} for name in protocols},
        "sequences": {n: {p: entry[p][n] for p in protocols} for n in ("calm", "wild")},
    }
    (folder / "metrics.json").write_text(json.dumps(report))
    return folder


def compare(*arguments):
    return cli.main(["compare", *map(str, arguments)])


def test_sequences_that_differ_come_first_and_are_drawn(tmp_path, capsys):
    data = make_data(tmp_path / "data")
    one = make_run(tmp_path / "one", 0.4, [2, 2, 20, 30, 2, 2])
    two = make_run(tmp_path / "two", 0.8, [2] * FRAMES)
    page = tmp_path / "page.html"
    assert compare(one, two, "--data", data, "--output", page) == 0
    assert "2 runs compared under union" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert text.index("<td>wild</td>") < text.index("<td>calm</td>")
    assert "0.400" in text and "refiner one" in text and text.count("<img") == 2
    # Four frames are shown, among them both that differ.
    assert "wild, frames 000, 001, 002, 003" in text


def test_disagreement_is_that_of_the_foregrounds():
    one, two = np.stack([square(2), square(2)]), np.stack([square(2), square(12)])
    two[0] *= 2  # another id of the same object
    np.testing.assert_allclose(disagreement([one, two]), [0, 1 - 1 / 3])
    three = np.zeros_like(one)
    np.testing.assert_allclose(disagreement([one, two, three])[0], 2 / 3)


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([], "nothing to compare"),
        (["none"], "no metrics.json"),
        (["elsewhere"], "different datasets"),
        (["paper"], "no protocol in common"),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, others, says):
    data = make_data(tmp_path / "data")
    one = make_run(tmp_path / "one", 0.4, [2] * FRAMES)
    make_run(tmp_path / "elsewhere", 0.5, [2] * FRAMES, title="other")
    make_run(tmp_path / "paper", 0.5, [2] * FRAMES, protocols=("paper",))
    (tmp_path / "none").mkdir()
    page = tmp_path / "page.html"
    runs = [one, *(tmp_path / name for name in others)]
    assert compare(*runs, "--data", data, "--output", page) == 2
    assert says in capsys.readouterr().err and not page.exists()

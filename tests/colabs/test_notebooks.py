"""The notebooks run from top to bottom on this checkout."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from oclr_jax.train.record.journal import read_rows

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, folder: Path, **shorter: int) -> list[dict]:
    """Executes a notebook in `folder` without its install cell; returns all outputs.

    `shorter` gives constants of the notebook another value.
    """
    notebook = nbformat.read(ROOT / "colabs" / name, as_version=4)
    cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    assert len(cells) == len(notebook.cells) - 1
    notebook.cells = cells
    for constant, value in shorter.items():
        (cell,) = (cell for cell in cells if re.search(rf"^{constant} = ", cell.source, re.M))
        cell.source = re.sub(rf"^{constant} = .*", f"{constant} = {value}", cell.source, flags=re.M)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}}).execute()
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda p: p.name)
def test_one_line_installs_everything_and_nothing_restarts(path: Path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    lines = [line for cell in cells for line in cell.source.splitlines()]
    assert sum(bool(re.search(r"\bpip\b", line)) for line in lines) == 1
    assert not re.search(r"\bapt|conda|os\.kill|restart|shutdown", "\n".join(lines))
    assert "install" in cells[0].metadata["tags"] and "pip install" in cells[0].source


def test_segment_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outputs = run("segment_a_video.ipynb", tmp_path, FRAMES=30)
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "objects, front to back: [" in text
    assert "objects, front to back: []" not in text
    assert "true object 1: J" in text
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    assert any("<video" in data.get("text/html", "") for data in shown)
    assert (tmp_path / "overlay.mp4").stat().st_size > 0


@pytest.mark.slow
def test_refine_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outputs = run("refine_masks.ipynb", tmp_path, FRAMES=12, STEPS=1)
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "refiners: ['self']" in text and re.search(r"objects refined: \d", text)
    assert "unrefined: J" in text and "refined: J" in text
    assert len(list((tmp_path / "mended").glob("*.png"))) == 12
    assert "The adapted weights of the flow model are" in text
    assert (tmp_path / "adapted" / "weights.safetensors").exists()
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 2


def test_look_at_synthetic_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outputs = run("look_at_synthetic_data.ipynb", tmp_path)
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "forward_flow: float32 [24, 128, 224, 2]" in text
    assert "median motion over 6 frames:" in text
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 3
    assert sum("<video" in data.get("text/html", "") for data in shown) == 2


@pytest.mark.slow
def test_train_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # The notebook expects a checkout, but writes into the temporary folder.
    for name in ("launch", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    outputs = run("train_tiny.ipynb", tmp_path, STEPS=6)
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "step 0 of 3" in text and "step 3 of 6" in text  # trained, and went on
    assert "step 6: loss" in text
    assert "clip_0" in text and "clip_2" in text
    assert "objects, front to back: [" in text
    workdir = tmp_path / "workdirs" / "tiny"
    rows = [row["step"] for row in read_rows(workdir)]
    assert rows == [3, 3, 6, 6]  # of training and of validation
    assert (workdir / "report.html").is_file()
    # The curves, three clips and the contact sheet.
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 5

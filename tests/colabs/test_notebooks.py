"""The notebooks run from top to bottom, on the package as it is here."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, folder: Path) -> list[dict]:
    """Executes a notebook in `folder`, its install line left out; returns all outputs."""
    notebook = nbformat.read(ROOT / "colabs" / name, as_version=4)
    cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    assert len(cells) == len(notebook.cells) - 1
    notebook.cells = cells
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_segment_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outputs = run("segment_a_video.ipynb", tmp_path)
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "objects, front to back: [" in text
    assert "objects, front to back: []" not in text
    assert "true object 1: J" in text
    shown = [output["data"] for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    assert any("<video" in data.get("text/html", "") for data in shown)
    assert (tmp_path / "overlay.mp4").stat().st_size > 0


def test_look_at_synthetic_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    outputs = run("look_at_synthetic_data.ipynb", tmp_path)
    text = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert "forward_flow: float32 [24, 128, 224, 2]" in text
    assert "median motion over 6 frames:" in text
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == 3
    assert sum("<video" in data.get("text/html", "") for data in shown) == 2

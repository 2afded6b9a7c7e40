"""The report on datasets: statistics of known flow, and the contents of the page."""

import numpy as np
import pytest

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn
from launch.reports import dataset as report_dataset
from launch.reports.dataset import frame_statistics
from oclr_jax.flow.dis import DIS
from oclr_jax.video.png import write_ids, write_png


def moving_square(speed: float) -> tuple[np.ndarray, np.ndarray]:
    """A square that moves to the right before a background that zooms."""
    y, x = np.mgrid[:64, :96].astype(np.float32)
    flow = np.stack([0.02 * (x - 48), 0.02 * (y - 32)], -1)
    mask = np.zeros((64, 96), bool)
    mask[20:44, 30:66] = True
    flow[mask] += [speed, 0]
    return flow, mask


def test_statistics_of_flow_that_is_known():
    flow, mask = moving_square(3.0)
    found = frame_statistics(flow, mask)
    assert found["size"] == pytest.approx(24 * 36 / (64 * 96))
    assert found["speed"] == pytest.approx(3, abs=1e-4)
    assert found["background"] == pytest.approx(0, abs=1e-4)
    assert found["articulation"] == pytest.approx(0, abs=1e-4)
    assert found["sharpness"] == pytest.approx(1, abs=1e-3)
    # Half of the object moves otherwise, as a leg does.
    flow[32:44, 30:48] += [0, 2]
    assert frame_statistics(flow, mask)["articulation"] > 0.3


def test_blurred_outlines_are_less_sharp():
    flow, mask = moving_square(3.0)
    blurred = np.stack([np.convolve(row, np.ones(9) / 9, "same") for row in flow[..., 0]])
    blurred = np.stack([blurred, flow[..., 1]], -1)
    assert frame_statistics(blurred, mask)["sharpness"] < 0.8


def test_frames_without_objects_tell_of_the_flow_alone():
    flow, mask = moving_square(3.0)
    assert frame_statistics(flow, mask & False).keys() == {"flow", "size"}


def test_page_shows_pictures_and_compares(tmp_path, capsys):
    tiny = next(config for config in OclrSyn.BUILDER_CONFIGS if config.name == "tiny")
    directory, _ = generate_dataset(tiny, tmp_path, DIS(64, 96), quiet=True)
    rng = np.random.default_rng(0)
    for t in range(5):
        image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        write_png(tmp_path / "real/JPEGImages/480p/dog" / f"{t:05d}.png", image)
        ids = np.zeros((64, 96), np.uint8)
        ids[20:50, 30:60] = 1
        write_ids(tmp_path / "real/Annotations/480p/dog" / f"{t:05d}.png", ids)
    page = tmp_path / "report.html"
    arguments = [str(directory), "--real", str(tmp_path / "real"), "--output", str(page)]
    assert report_dataset.main([*arguments, "--sheets", "2"]) == 0
    text = page.read_text()
    # Flow on so few pixels may have no outline with a step across it.
    assert text.count("<img") >= len(report_dataset.STATISTICS) - 1 + 2
    assert "<td>real</td>" in text and "<td>tiny/2.0.0</td>" in text
    assert report_dataset.main([str(tmp_path / "none")]) == 2
    assert "is not a dataset" in capsys.readouterr().err

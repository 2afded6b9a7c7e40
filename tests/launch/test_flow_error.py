"""The report on the errors of flow estimators: regions, units, and the command."""

import numpy as np
import pytest

from data_pipelines.loaders.sequences import dataset_directory
from launch.reports import flow_error
from oclr_jax.flow.dis import DIS


def test_regions_of_a_square_that_moves_slowly_before_a_zoom():
    y, x = np.mgrid[:48, :64].astype(np.float32)
    exact = np.stack([0.05 * (x - 32), 0.05 * (y - 24)], axis=-1)
    ids = np.zeros((48, 64), np.uint8)
    ids[10:20, 10:20], ids[30:44, 40:60] = 1, 2
    exact[ids == 1] += 0.5, 0.0
    exact[ids == 2] += 3.0, 0.0
    found = flow_error.regions(exact, ids)
    assert list(found) == list(flow_error.REGIONS)
    assert found["everywhere"].all()
    np.testing.assert_array_equal(found["objects"], ids > 0)
    np.testing.assert_array_equal(found["slow"], ids == 1)
    near = found["at outlines"]
    assert near[15, 10] and near[15, 6] and not near[15, 30]
    assert not near[37, 50] and near[37, 57]


def test_without_a_background_the_motion_counts_as_it_is():
    exact = np.full((8, 8, 2), 0.1, np.float32)
    assert flow_error.regions(exact, np.ones((8, 8), np.uint8))["slow"].all()


@pytest.fixture
def tiny_dataset(data_dir):
    return dataset_directory(data_dir, "tiny")


class Constant(DIS):
    """Flow of zeros, so that its error is the length of the true flow."""

    def __call__(self, first, second):
        return np.zeros((len(first), self.height, self.width, 2), np.float32)


def test_errors_are_in_pixels_of_the_rendered_frames(tiny_dataset):
    found = flow_error.measure(
        tiny_dataset, "train", {"none": Constant(64, 96), "dis": DIS(64, 96)}, 2, quiet=True
    )
    sequences, settings = flow_error.open_sequences(tiny_dataset, "train", flow_error.FIELDS)
    scale = settings["scene"]["render_width"] / settings["scene"]["width"]
    exact = np.concatenate([sequences[i]["exact"][:-1] for i in range(2)]).astype(np.float32)
    length = scale * np.linalg.norm(exact, axis=-1).mean()
    assert found["none"]["everywhere"] == pytest.approx(length, rel=0.05)
    assert found["dis"]["everywhere"] < found["none"]["everywhere"]
    assert found["dis"]["seconds"] > 0


def test_the_command_prints_a_row_for_each_estimator(tiny_dataset, capsys):
    arguments = [str(tiny_dataset), "--limit", "1", "--flow", "dis:fast", "dis-sharp", "--quiet"]
    assert flow_error.main(arguments) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["flow", "---", "dis:fast", "dis-sharp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flow", "farneback"], "There is no flow estimator 'farneback'"),
        (["--split", "test"], "has no split test"),
    ],
)
def test_mistakes_end_in_a_sentence(tiny_dataset, capsys, arguments, message):
    assert flow_error.main([str(tiny_dataset), *arguments]) == 2
    assert message in capsys.readouterr().err

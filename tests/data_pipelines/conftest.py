"""Small datasets that the tests of this folder read."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn, OclrSynConfig
from data_pipelines.builders.predicted_masks import write_predicted_masks
from oclr_jax.flow.dis import DIS
from oclr_jax.flow.resize import resize_flow

GRID = (16, 24, 3)  # of the masks that `predict` makes


@pytest.fixture(scope="session")
def tiny_config() -> OclrSynConfig:
    return next(config for config in OclrSyn.BUILDER_CONFIGS if config.name == "tiny")


@pytest.fixture(scope="session")
def tiny_estimator() -> DIS:
    return DIS(height=64, width=96)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory, tiny_config, tiny_estimator) -> Path:
    """The `tiny` dataset, rendered by two processes."""
    data_dir = tmp_path_factory.mktemp("data")
    directory, rendered = generate_dataset(
        tiny_config, data_dir, tiny_estimator, processes=2, quiet=True
    )
    assert rendered
    return directory


@pytest.fixture(scope="session")
def masks_directory(tmp_path_factory, tiny_directory) -> Path:
    """A copy of the `tiny` dataset with predicted masks `motion`."""
    directory = copy_dataset(tiny_directory, tmp_path_factory.mktemp("masks") / "tiny")
    write_predicted_masks(
        directory, "motion", predict, GRID, {"weights": {"name": "motion"}}, quiet=True
    )
    return directory


def copy_dataset(directory: Path, path: Path) -> Path:
    shutil.copytree(directory, path)
    return path


def predict(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A stand-in for a model: layers by the direction of motion."""
    u, v = np.moveaxis(resize_flow(flow, *GRID[:2])[..., :2], -1, 0)
    probability = 1 / (1 + np.exp(-np.stack([u, -u, v], axis=-1)))
    return probability.astype(np.float32), u.mean((1, 2))[:, None] * np.array([1, 2, 3], np.float32)

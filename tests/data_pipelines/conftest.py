"""A small dataset that the tests of this folder read."""

from pathlib import Path

import pytest

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn, OclrSynConfig
from oclr_jax.flow.dis import DIS


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

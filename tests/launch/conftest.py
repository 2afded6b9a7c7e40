"""A small dataset that the training commands of this folder train on."""

from pathlib import Path

import pytest

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn
from oclr_jax.flow.estimator import DIS


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    tiny = next(config for config in OclrSyn.BUILDER_CONFIGS if config.name == "tiny")
    generate_dataset(tiny, folder, DIS(height=64, width=96), quiet=True)
    return folder

"""Small datasets that the training commands of this folder train on."""

from pathlib import Path

import pytest

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn
from oclr_jax.flow.dis import DIS


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate("tiny", folder)
    return folder


@pytest.fixture(scope="session")
def pairs_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    generate("tiny_pairs", folder)
    return folder


def generate(name: str, folder: Path) -> None:
    config = next(config for config in OclrSyn.BUILDER_CONFIGS if config.name == name)
    generate_dataset(config, folder, DIS(height=64, width=96), quiet=True)

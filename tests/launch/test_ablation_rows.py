"""The ablations of the second paper: what trains the rows of its tables 4 to 9, 12 and 13.

The rows of the other tables have no training of their own. Tables 10, 14 and 15 are evaluations
and adaptations of trained models (tests/refine, tests/adapt), table 11 the trainings of the
baselines (test_train_baselines.py).
"""

import importlib
import re
import shlex
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from launch.reports.paper_tables import SECOND_PAPER
from oclr_jax.models.backbones import FROZEN, OWN
from oclr_jax.models.dino import DINOConfig, parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.record.report import TrainingReport
from oclr_jax.train.tasks import open_task
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights
from oclr_jax.weights.registry import cache_folder
from tests.train.test_refinement_tasks import squares_data

TABLES = ("3", "4", "5", "6", "7", "8", "9", "12", "13")
WIDTHS = {"mae_vitb16": 768}  # of the released backbones, where it is not 384


def trainings(name: str) -> list[str]:
    """The training commands of a table, one for each row that has one."""
    (table,) = (table for table in SECOND_PAPER if table.title.startswith(f"Table {name}:"))
    commands = (command for row in table.rows for command in row.commands)
    return [command for command in commands if "launch/train.py" in command]


COMMANDS = sorted({command for table in TABLES for command in trainings(table)})


def compose(command: str, *variants: str):
    """The configuration of a command, with further variants before its single fields."""
    module, named = re.search(r"--config configs/(\w+)\.py(?::(\S+))?", command).groups()
    names = ",".join(filter(None, (named, *variants)))
    config = importlib.import_module(f"configs.{module}").get_config(names)
    fields = [word.partition("=") for word in shlex.split(command) if word.startswith("--config.")]
    config.update_from_flattened_dict(
        {name.removeprefix("--config."): read(value) for name, _, value in fields}
    )
    return config


def read(value: str) -> int | str:
    return int(value) if value.isdigit() else value


@pytest.mark.parametrize("command", COMMANDS)
def test_a_row_makes_a_model_for_its_backbone(command):
    config = compose(command)
    assert config.model.feature_channels == WIDTHS.get(config.model.backbone, 384)
    assert config.task in ("selector", "corrector") and config.steps == 600_000


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_a_table_differ_in_their_settings(table):
    settings = [compose(command).to_json() for command in trainings(table)]
    assert len(set(settings)) == len(settings) > 0


@cache
def first_losses(command: str, folder: Path) -> tuple[float, ...]:
    """Trains for two steps at `tiny`; returns their losses."""
    config = compose(command, "tiny")
    config.model.height = config.model.width = 16
    config.model.channels = (4, 8)
    config.data.frames = 16  # the longest window has 10 frames, and an object 15 exemplars
    config.validation_clips = 1
    config.update({"steps": 2, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
    if config.model.backbone != OWN:
        write_backbone(config.model.backbone, config.model.feature_channels)
    workdir = folder / re.sub(r"\W+", "_", command)
    train(config, workdir, open_task(config), squares_data(config))
    _, info = load_weights(workdir / "weights.safetensors", config.task)
    assert info.model.backbone == config.model.backbone
    losses = [row["loss"] for row in read_rows(workdir) if row["kind"] == "train"]
    assert len(losses) == 2 and np.isfinite(losses).all()
    return tuple(losses)


def write_backbone(name: str, width: int) -> None:
    """Random weights where the released ones are looked for."""
    patch = int(re.search(r"\d+$", name)[0])
    config = DINOConfig(patch, width, depth=1, heads=2, trained_side=8 * patch)
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(config).items()
    flat = {path: 0.1 * rng.standard_normal(shape, np.float32) for path, shape in shapes}
    info = WeightsInfo(config, FROZEN[name])
    save_weights(cache_folder() / f"{FROZEN[name]}.safetensors", unflatten(flat), info, "float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rows")


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
def test_every_row_trains_at_tiny(table, folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "caches"))
    monkeypatch.setattr(TrainingReport, "write", lambda *_: None)  # takes longer than the training
    losses = [first_losses(command, folder) for command in trainings(table)]
    assert len(set(losses)) == len(losses), "each row trains something else"

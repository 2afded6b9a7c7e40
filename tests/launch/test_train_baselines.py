"""The learned baselines on the generated dataset that their tiny configurations name."""

import importlib

import pytest

from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.tasks import open_task
from tests.clips import moving_clip, write_frames

VARIANTS = (
    *("motion_grouping:tiny", "motion_grouping:three,tiny", "motion_grouping:supervised,tiny"),
    *("mask_rcnn:tiny", "mask_rcnn:rgb,tiny"),
)


def load_config(name: str, data_dir):
    module, _, variants = name.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(variants)
    config.data.dir = str(data_dir)
    return config


@pytest.mark.parametrize("name", VARIANTS)
def test_the_data_are_what_the_task_learns_from(data_dir, name):
    config = load_config(name, data_dir)
    task = open_task(config)
    data = task.open_data(config)
    size = (config.data.frames, config.model.height, config.model.width)
    for batches, count in ((data.train_batches(3), 2), (data.validation_batches(), 1)):
        batch = next(iter(batches))
        assert task.batch_fields <= set(batch)
        assert batch["flow"].shape == (count, *size, 4)
    assert data.metadata["flow"]["estimator"] == "dis" and data.metadata["data_version"]


def test_motion_grouping_learns_from_a_folder_of_videos(data_dir, tmp_path):
    write_frames(tmp_path / "videos" / "one", moving_clip(6))
    config = load_config("motion_grouping:tiny", tmp_path)
    config.data.videos, config.data.estimator = str(tmp_path / "videos"), "dis:ultrafast"
    config.model.gaps = (1, 2, -1, -2)
    data = open_task(config).open_data(config)
    batch = next(iter(data.train_batches(0)))
    assert set(batch) == {"flow"} and batch["flow"].shape == (2, 1, 32, 48, 4)
    assert len(list((tmp_path / "video_flows").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_tiny_training(data_dir, tmp_path, name):
    config = load_config(name, data_dir)
    config.update({"steps": 4, "log_every": 2, "evaluate_every": 4, "checkpoint_every": 4})
    task = open_task(config)
    train(config, tmp_path, task, task.open_data(config))
    assert [row["kind"] for row in read_rows(tmp_path)] == ["train", "train", "validation"]
    assert (tmp_path / "weights.safetensors").is_file()
    assert (tmp_path / "report.html").is_file()

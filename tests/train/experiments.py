"""Trains experiments of the paper for two steps: `experiments.py FOLDER NAME NAME ...`.

At `tiny` and smaller, each in a workdir with its name. A separate program, so that XLA can be told
to compile quickly.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.oclr_flow import get_config
from oclr_jax.train.loop import train
from oclr_jax.train.record.report import TrainingReport
from oclr_jax.train.tasks import open_task
from tests.train.squares import squares_data


def train_briefly(name: str, workdir: Path) -> None:
    config = get_config(f"{name},tiny")
    config.model.channels = (4, 8)
    config.model.height = config.model.width = 16
    config.validation_clips = 1
    config.update({"steps": 2, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
    train(config, workdir, open_task(config), squares_data(config))


if __name__ == "__main__":
    TrainingReport.write = lambda *arguments: None  # It takes longer than the training.
    for experiment in sys.argv[2:]:
        train_briefly(experiment, Path(sys.argv[1]) / experiment)

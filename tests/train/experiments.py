"""Trains experiments of the paper for two steps: `experiments.py FOLDER NAME NAME ...`.

At `tiny` and smaller, each into a workdir with its name. A program of its own, so that its programs
are compiled quickly rather than well.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.oclr_flow import get_config
from oclr_jax.train.loop import train
from tests.train.squares import squares_data


def train_briefly(name: str, workdir: Path) -> None:
    config = get_config(f"{name},tiny")
    config.model.channels = (4, 8)
    config.model.height = config.model.width = 16
    config.validation_clips = 1
    config.update({"steps": 2, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2})
    train(config, workdir, squares_data(config))


if __name__ == "__main__":
    for experiment in sys.argv[2:]:
        train_briefly(experiment, Path(sys.argv[1]) / experiment)

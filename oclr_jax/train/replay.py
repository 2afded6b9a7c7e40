"""Runs one step of a training again, to find what in its batch or parameters was not finite."""

import os
from contextlib import closing
from itertools import chain, islice
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from oclr_jax.train.checkpoints import Checkpoints
from oclr_jax.train.data import TrainingData, read_batches
from oclr_jax.train.devices import open_devices
from oclr_jax.train.fit import configured_step, run_steps
from oclr_jax.train.nonfinite import read_batch
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.settings import lengths_in_steps
from oclr_jax.train.state import CHECKPOINTS, init_state, warm_start
from oclr_jax.train.task import Task


def replay(
    config: ConfigDict,
    workdir: str | os.PathLike,
    task: Task,
    data: TrainingData,
    path: str | os.PathLike,
) -> str:
    """Runs the step of a batch that was kept, from the parameters that it had.

    These come from the newest checkpoint before it and the steps between, which are run again. No
    checkpoint is written. Damaged ones are moved aside, as a training does, so no training may run
    in the workdir meanwhile.

    Args:
      config: of the training.
      path: a file that `NonFiniteSteps` wrote.

    Returns:
      the metrics of the step, and a line for each example of the batch: for every field of floats
      how many values are not finite, and the largest magnitude of the others.

    Raises:
      UserError: the file, or the checkpoints before that step, cannot be read.
    """
    config = lengths_in_steps(config)
    batch, last, examples = read_batch(path, task.batch_fields)
    devices = open_devices(config.parallel, config.batch_size, config.accumulate)
    variables = task.init_variables(config.seed)
    transformation = make_optimizer(OptimizerConfig(**config.optimizer), config.steps)
    state = devices.replicate(init_state(variables, transformation, config.ema_decay > 0))
    folder = epath.Path(workdir) / CHECKPOINTS
    checkpoints = Checkpoints(folder, config.keep_checkpoints, config.keep_best)
    restored = checkpoints.restore_newest(state, before=last)
    checkpoints.close()
    if restored is None:
        variables, _ = warm_start(config, task, variables)
        restored = devices.replicate(init_state(variables, transformation, config.ema_decay > 0))
    begin = int(restored.step)
    step = configured_step(config, task, devices, devices.replicate(variables.frozen))
    with closing(read_batches(data.train_batches(begin))) as before:
        batches = map(devices.shard, chain(islice(before, last - 1 - begin), [batch]))
        for _, newest in run_steps(step, restored, batches, last - begin):
            metrics = newest
    values = ", ".join(f"{name} {float(value):.6g}" for name, value in metrics.items())
    head = f"step {last} from the checkpoint of step {begin}"
    head += f", {examples}" if examples else ""
    return "\n".join([f"{head}: {values}", *_describe_examples(batch)])


def _describe_examples(batch: dict[str, Any]) -> list[str]:
    """A line for each example of a batch."""
    floats = {name: x for name, x in batch.items() if np.issubdtype(x.dtype, np.floating)}
    count = len(next(iter(batch.values())))
    return [
        f"example {index}: "
        + "; ".join(
            f"{name}: {_describe_values(x[index : index + 1])}" for name, x in floats.items()
        )
        for index in range(count)
    ]


def _describe_values(values: np.ndarray) -> str:
    finite = np.isfinite(values)
    largest = np.abs(np.where(finite, values, 0)).max()
    return f"{np.sum(~finite)} of {values.size} values not finite, largest {largest:.1f}"

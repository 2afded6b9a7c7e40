"""One step of a training once more: what in its batch, or in the parameters, was not finite."""

import os

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from oclr_jax.train.checkpoints import TrainStates
from oclr_jax.train.devices import open_devices
from oclr_jax.train.loop import Data, compiled_step
from oclr_jax.train.nonfinite import read_batch
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.settings import in_steps
from oclr_jax.train.start import ORIGIN, STATES, first_state
from oclr_jax.train.tasks import open_task


def replay(
    config: ConfigDict, workdir: str | os.PathLike, data: Data, path: str | os.PathLike
) -> str:
    """Runs the step of a batch that was kept, from the very parameters that it met.

    They come from the newest state before it, and the steps between, which are run again. No state
    is written; damaged ones are moved aside, as a training does, so none may run there meanwhile.

    Args:
      config: that of the training.
      path: a file that `NonFiniteSteps` wrote.

    Returns:
      the step's metrics, and a line for each clip or pair of the batch: its values that are not
      finite, and the largest flow of the others in pixels.

    Raises:
      UserError: the file, or the states before that step, cannot be read.
    """
    config = in_steps(config)
    task = open_task(config)
    batch, last, samples = read_batch(path, task.batch_fields)
    devices = open_devices(config.parallel, config.batch_size, config.accumulate)
    workdir = epath.Path(workdir)
    optimizer = make_optimizer(OptimizerConfig(**config.optimizer), config.steps)
    states = TrainStates(workdir / STATES, config.keep_checkpoints, config.keep_best)
    state = first_state(config, task, optimizer, states, workdir / ORIGIN, devices, before=last)
    states.close()
    step = compiled_step(config, task, optimizer, devices)
    begin = int(state.step)
    batches = iter(data.batches(begin))
    for _ in range(begin, last - 1):
        state, _ = step(state, devices.shard(next(batches)))
    _, metrics = step(state, devices.shard(batch))
    values = ", ".join(f"{name} {float(value):.6g}" for name, value in metrics.items())
    finite = np.isfinite(batch["flow"])
    largest = np.abs(np.where(finite, batch["flow"], 0)).max(axis=tuple(range(1, finite.ndim)))
    clips = [
        f"clip {index}: {np.sum(~finite[index])} of {finite[index].size} flow values not finite, "
        f"largest flow {largest[index]:.1f}"
        for index in range(len(finite))
    ]
    head = f"step {last} from the state of step {begin}" + (f", {samples}" if samples else "")
    return "\n".join([f"{head}: {values}", *clips])

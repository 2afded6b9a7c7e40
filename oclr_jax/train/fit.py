"""Runs training steps: `fit` in memory, for test-time training, and what the loop shares with it.

`fit` writes no files and opens no data, so a few hundred steps for each video cost little more than
the steps themselves; the loop (`oclr_jax.train.loop`) adds data, checkpoints, logs and evaluations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from oclr_jax.train.data import DataError
from oclr_jax.train.devices import AXIS, Devices, one_device
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import TrainState, init_state
from oclr_jax.train.step import make_train_step
from oclr_jax.train.task import Metrics, Task, Variables
from oclr_jax.types import AnyBatch

# Programs that `fit` keeps compiled.
_KEPT_PROGRAMS = 8


def compile_step(
    task: Task,
    optimizer: OptimizerConfig,
    steps: int,
    devices: Devices,
    *,
    seed: int,
    ema_decay: float = 0.0,
    accumulate: int = 1,
) -> Callable[[TrainState, Any, Mapping[str, Any]], tuple[TrainState, Metrics]]:
    """Compiles the training step (state, frozen, batch) -> (state, metrics) of a task.

    It reuses the memory of the state that it gets. Arguments as of `make_train_step`; `steps` is
    the length of the learning-rate schedule.
    """
    step = make_train_step(
        task,
        make_optimizer(optimizer, steps),
        seed=seed,
        ema_decay=ema_decay,
        accumulate=accumulate,
        unroll=devices.platform == "cpu",
        groups=optimizer.groups,
        axis_name=AXIS,
    )
    return devices.compile(step)


def configured_step(
    config: ConfigDict, task: Task, devices: Devices, frozen: Any
) -> Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, Metrics]]:
    """Compiles the step (state, batch) -> (state, metrics) of a training configuration.

    Args:
      config: as the files in configs/ return it.
      frozen: parameters that are not trained, on the devices.
    """
    step = compile_step(
        task,
        OptimizerConfig(**config.optimizer),
        config.steps,
        devices,
        seed=config.seed,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
    )
    return lambda state, batch: step(state, frozen, batch)


def run_steps(
    step: Callable[[TrainState, Mapping[str, Any]], tuple[TrainState, Metrics]],
    state: TrainState,
    batches: Iterator[Mapping[str, Any]],
    steps: int,
) -> Iterator[tuple[TrainState, Metrics]]:
    """Yields state and metrics after each of `steps` steps.

    The next batch is fetched while the devices compute. Where that fails, the step before it is
    yielded first. A state is valid until the next one is asked for.

    Args:
      step: compiled.
      batches: on the devices already.

    Raises:
      DataError: the batches end too early.
    """
    batch = _next_batch(batches) if steps > 0 else None
    for remaining in range(steps - 1, -1, -1):
        state, metrics = step(state, batch)
        failure = None
        try:
            batch = _next_batch(batches) if remaining else None
        except DataError as error:
            failure = error
        yield state, metrics
        if failure is not None:
            raise failure


def _next_batch(batches: Iterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return next(batches)
    except StopIteration:
        raise DataError("The training data ended before the training did.") from None


def fit(
    task: Task,
    variables: Variables,
    batches: Iterable[AnyBatch],
    steps: int,
    *,
    optimizer: OptimizerConfig,
    seed: int = 0,
    ema_decay: float = 0.0,
    devices: Devices | None = None,
) -> tuple[Variables, dict[str, Float[np.ndarray, "steps"]]]:
    """Trains variables on batches for some steps, in memory.

    The program is compiled once for the same task object, settings and shapes, so fitting the next
    video starts at once. A step whose loss or gradient is not finite changes nothing.

    Args:
      variables: to start from; they are not changed.
      batches: dicts of arrays with a leading axis over examples, at least one per step.
      optimizer: its schedule runs over `steps`.
      ema_decay: of a moving average of the parameters, which is returned; 0: none.
      devices: among which the examples of a batch are split evenly; None for one device.

    Returns:
      the variables after the last step, and the metrics of every step.

    Raises:
      DataError: the batches end too early.
    """
    devices = devices or one_device()
    compiled = _compiled_for_fit(task, optimizer, steps, devices, seed, ema_decay)
    # A copy, because the first step takes over the memory of the state that it gets.
    params, model_state = jax.tree.map(jnp.array, (variables.params, variables.model_state))
    start = Variables(params, model_state)
    state = devices.replicate(init_state(start, make_optimizer(optimizer, steps), ema_decay > 0))
    frozen = devices.replicate(variables.frozen)
    history = []
    on_device = map(devices.shard, batches)
    for reached, metrics in run_steps(lambda s, b: compiled(s, frozen, b), state, on_device, steps):
        state = reached
        history.append(metrics)
    names = history[0] if history else ()
    values = {name: np.array([float(row[name]) for row in history]) for name in names}
    return state.eval_variables(variables.frozen), values


@lru_cache(maxsize=_KEPT_PROGRAMS)
def _compiled_for_fit(
    task: Task,
    optimizer: OptimizerConfig,
    steps: int,
    devices: Devices,
    seed: int,
    ema_decay: float,
) -> Callable[[TrainState, Any, Mapping[str, Any]], tuple[TrainState, Metrics]]:
    return compile_step(task, optimizer, steps, devices, seed=seed, ema_decay=ema_decay)

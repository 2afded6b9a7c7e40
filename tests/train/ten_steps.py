"""Ten steps in different modes on the devices that there are; the results go into a file.

A separate program, because the number of devices is fixed when jax starts:
`python tests/train/ten_steps.py toy|model OUT.npz`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.devices import AXIS, Devices, all_devices
from oclr_jax.train.fit import fit
from oclr_jax.train.schedule import OptimizerConfig
from oclr_jax.train.state import init_state
from oclr_jax.train.step import make_train_step
from oclr_jax.train.task import Task, Variables
from oclr_jax.train.tasks.segmentation import Segmentation
from tests.train.squares import squares
from tests.train.toy import Toy, toy_batch

STEPS, CLIPS = 10, 16
# name: (parallel, devices, accumulate)
MODES = {
    "one": ("jit", 1, 1),
    "pmap": ("pmap", 8, 1),
    "jit_accumulated": ("jit", 8, 2),
}
# Of the toy task, whose batch statistics are those of a part of the batch.
TOY_MODES = {"toy_one": ("jit", 1, 1), "toy_jit": ("jit", 2, 1), "toy_pmap": ("pmap", 2, 1)}
MODEL = OCLRConfig(
    channels=(4, 8), heads=2, feedforward=8, encoder_layers=1, decoder_layers=1, dropout=0.2
)
TASK = Segmentation(OCLR(MODEL), LossWeights(modal=0.1, query=0.5))


def clips(step: int) -> dict[str, np.ndarray]:
    """A batch whose clips have boundaries of different lengths; some are empty."""
    batch = squares(step, CLIPS, 2, 16, 16)
    for clip in range(0, CLIPS, 3):
        batch["amodal"][clip] = batch["modal"][clip] = 0
    return batch


def ten_steps(
    task: Task,
    variables: Variables,
    batch_of: Callable[[int], dict[str, np.ndarray]],
    parallel: str,
    count: int,
    accumulate: int,
) -> dict[str, np.ndarray]:
    """Metrics of every step, and parameters and model state after the last.

    Plain gradient descent, because Adam would hide a gradient that is eight times too large.
    """
    devices = Devices(Mesh(np.array(jax.devices()[:count]), (AXIS,)), parallel)
    optimizer = optax.sgd(0.3 if task is TASK else 0.03)
    options = {"accumulate": accumulate, "axis_name": AXIS}
    step = devices.compile(make_train_step(task, optimizer, seed=0, **options))
    state = devices.replicate(init_state(variables, optimizer, ema=False))
    frozen, rows = devices.replicate(variables.frozen), []
    for index in range(STEPS):
        state, metrics = step(state, frozen, devices.shard(batch_of(index)))
        rows.append({name: float(value) for name, value in metrics.items()})
    arrays = jax.device_get({**state.params, **state.model_state})
    found = {f"metrics/{name}": np.array([row[name] for row in rows]) for name in rows[0]}
    return found | flatten_dict(arrays, sep="/")


def fitted(
    task: Task,
    variables: Variables,
    batch_of: Callable[[int], dict[str, np.ndarray]],
    devices: Devices | None,
) -> dict[str, np.ndarray]:
    """As `ten_steps`, by `fit`."""
    batches = map(batch_of, range(STEPS))
    found, metrics = fit(
        *(task, variables, batches, STEPS), optimizer=OptimizerConfig(0.03), devices=devices
    )
    arrays = jax.device_get({**found.params, **found.model_state})
    return {f"metrics/{n}": x for n, x in metrics.items()} | flatten_dict(arrays, sep="/")


if __name__ == "__main__":
    kind, path = sys.argv[1:]
    task, modes = (Toy(), TOY_MODES) if kind == "toy" else (TASK, MODES)
    batch_of = (lambda index: toy_batch(index, 8)) if kind == "toy" else clips
    start = jax.device_get(task.init_variables(0))
    given = {name: ten_steps(task, start, batch_of, *mode) for name, mode in modes.items()}
    if kind == "toy":
        for name, devices in (("fit_one", None), ("fit_all", all_devices())):
            given[name] = fitted(task, start, batch_of, devices)
    np.savez(path, **{f"{mode}:{n}": x for mode, r in given.items() for n, x in r.items()})

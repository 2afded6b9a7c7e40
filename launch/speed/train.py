"""`python launch/benchmark.py train`: time of one training step, without loading data.

`--simulated_devices 1 2 4` splits the same batch among 1, 2 and 4 devices that are simulated on the
CPU. They share its cores, so the time shows the cost of splitting, not the gain.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from launch.speed.measure import add_model_arguments, model_config, report, time_runs
from oclr_jax.models.oclr import OCLR
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.devices import PARALLEL_MODES, open_devices
from oclr_jax.train.fit import compile_step
from oclr_jax.train.record.utilisation import machine_use
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import init_state
from oclr_jax.train.tasks.segmentation import Segmentation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `train`."""
    add_model_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs")
    parser.add_argument("--modal", type=float, default=0.1, help="weight of the modal loss")
    parser.add_argument("--accumulate", type=int, default=1, help="parts of the batch")
    parser.add_argument("--parallel", choices=PARALLEL_MODES, default="jit", help="mode of a step")
    parser.add_argument("--simulated_devices", type=int, nargs="+", help="a row for each number")


def main(options: argparse.Namespace) -> None:
    """Prints the measurements."""
    what = f"training step, {options.batch_size} x {options.frames} frames"
    if options.simulated_devices:
        rows = {f"{what}, {n} devices": _simulated(n, options) for n in options.simulated_devices}
    else:
        rows = {what: measure_step(options)}
    report(rows, options)


def measure_step(options: argparse.Namespace) -> dict[str, float]:
    """Measures a step on all devices of this process."""
    devices = open_devices(options.parallel, options.batch_size, options.accumulate)
    task = Segmentation(OCLR(model_config(options)), LossWeights(modal=options.modal))
    optimizer, steps = OptimizerConfig(), 600_000
    variables = task.init_variables(seed=0)
    start = init_state(variables, make_optimizer(optimizer, steps), ema=False)
    state, frozen = devices.replicate(start), devices.replicate(variables.frozen)
    step = compile_step(task, optimizer, steps, devices, seed=0, accumulate=options.accumulate)
    rng, shape = np.random.default_rng(0), (options.frames, options.height, options.width)
    masks = rng.integers(0, 2, (options.batch_size, *shape, 3), np.uint8)
    flow = rng.standard_normal((options.batch_size, *shape, 4), np.float32)
    batch = devices.shard({"flow": flow, "amodal": masks, "modal": masks})

    def run():
        nonlocal state
        state, metrics = step(state, frozen, batch)
        return state, metrics

    figures = time_runs(run, options.repeats)
    flops = task.step_flops(options.batch_size)
    return figures | machine_use(flops / figures["seconds"])


def _simulated(count: int, options: argparse.Namespace) -> dict[str, float]:
    """In its own process, because the number of devices is fixed when jax starts."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure_step, options).result()

"""`python launch/benchmark.py raft`: time and memory of RAFT on pairs of frames, random weights."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from launch.speed.measure import report, time_runs
from oclr_jax.flow.raft import ITERATIONS, make_programs
from oclr_jax.models.raft import MIN_SIDE, RAFT, STRIDE, RAFTConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `raft`."""
    parser.add_argument("--model", choices=["raft", "raft-small"], default="raft")
    parser.add_argument("--height", type=int, default=480, help="frame height in pixels")
    parser.add_argument("--width", type=int, default=854, help="frame width in pixels")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="RAFT iterations")
    parser.add_argument("--batch_size", type=int, default=1, help="pairs per batch")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--on_demand", action="store_true", help="compute correlations on demand")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def main(options: argparse.Namespace) -> None:
    """Prints the time and memory per batch, features of both frames included."""
    config = RAFTConfig(options.model == "raft-small", options.dtype)
    small = jnp.zeros((1, MIN_SIDE, MIN_SIDE, 3))
    variables = jax.jit(RAFT(config).init)(jax.random.key(0), small, small)
    programs = make_programs(config, options.iterations, options.on_demand)
    size = [-(-side // STRIDE) * STRIDE for side in (options.height, options.width)]
    shape = (2, options.batch_size, *size, 3)
    first, second = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def flow() -> jax.Array:
        one, other = (programs.features(variables, frames) for frames in (first, second))
        return programs.refine(variables, one, other, programs.context(variables, first))

    figures = time_runs(flow, options.repeats)
    figures["seconds_per_pair"] = figures["seconds"] / options.batch_size
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        figures["device_peak_gib"] = stats["peak_bytes_in_use"] / 2**30
    what = f"{options.model}, {options.batch_size} x {options.height}x{options.width}"
    report({what: figures}, options)

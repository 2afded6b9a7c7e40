"""`python launch/benchmark.py infer`: time of the model's forward pass on one clip."""

import argparse

import jax
import jax.numpy as jnp

from launch.speed.measure import add_model_arguments, model_config, report, time_runs
from oclr_jax.models.oclr import OCLR
from oclr_jax.train.tasks.segmentation import init_params


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `infer`."""
    add_model_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs")


def main(options: argparse.Namespace) -> None:
    """Prints the measurements."""
    model = OCLR(model_config(options))
    params = init_params(model, seed=0)
    shape = (options.batch_size, options.frames, options.height, options.width, 4)
    flow = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    forward = jax.jit(lambda params, flow: model.apply({"params": params}, flow))
    figures = time_runs(lambda: forward(params, flow), options.repeats)
    report({f"forward, {options.batch_size} x {options.frames} frames": figures}, options)

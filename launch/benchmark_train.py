"""`python launch/benchmark.py train`: time of one training step, on clips that are at hand."""

import argparse

import jax
import jax.numpy as jnp

from launch.measure import add_model_arguments, measure, model_config, report
from oclr_jax.models.oclr import OCLR
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import init_state
from oclr_jax.train.step import make_train_step
from oclr_jax.train.tasks.segmentation import Segmentation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `train` understands."""
    add_model_arguments(parser)
    parser.add_argument("--modal", type=float, default=0.1, help="weight of the modal loss")


def main(options: argparse.Namespace) -> None:
    """Prints the figures."""
    task = Segmentation(OCLR(model_config(options)), LossWeights(modal=options.modal))
    optimizer = make_optimizer(OptimizerConfig(), steps=600_000)
    state = init_state(task.init_params(seed=0), optimizer, ema=False)
    step = jax.jit(make_train_step(task, optimizer, seed=0), donate_argnums=0)
    shape = (options.batch_size, options.frames, options.height, options.width)
    flow_key, mask_key = jax.random.split(jax.random.key(0))
    masks = jax.random.bernoulli(mask_key, 0.5, (*shape, 3)).astype(jnp.uint8)
    flow = jax.random.normal(flow_key, (*shape, 4), jnp.float32)
    batch = {"flow": flow, "amodal": masks, "modal": masks}

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    figures = measure(run, options.repeats)
    report(f"training step, {options.batch_size} x {options.frames} frames", figures, options)

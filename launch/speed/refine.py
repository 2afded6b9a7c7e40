"""`python launch/benchmark.py refine`: time of the selector and the corrector, random weights."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

from launch.speed.measure import report, time_runs
from oclr_jax.models import corrector, selector
from oclr_jax.models.corrector import Corrector, CorrectorConfig, Exemplars
from oclr_jax.models.selector import Selector, SelectorConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `refine`."""
    parser.add_argument("--frames", type=int, default=30, help="frames that the selector compares")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def main(options: argparse.Namespace) -> None:
    """Prints the measurements: three objects, the features of the backbone given."""
    select, correct = _selector(options), _corrector(options)
    report(
        {
            f"selector, {options.frames} frames": time_runs(select, options.repeats),
            "corrector, a window": time_runs(correct, options.repeats),
        },
        options,
    )


def _selector(options: argparse.Namespace):
    config = SelectorConfig(compute_dtype=options.dtype)
    frames = (1, options.frames)
    images, masks = _clips(frames, config, 3)
    features = jnp.ones((*frames, *config.grid, config.feature_channels))
    params = selector.init_params(config, 0)
    model = jax.jit(lambda *inputs: Selector(config).apply({"params": params}, *inputs))
    return lambda: model(images, masks, features)


def _corrector(options: argparse.Namespace):
    config = CorrectorConfig(compute_dtype=options.dtype)
    images, masks = _clips((1, config.frames), config, config.objects)
    shape = (1, config.exemplars, config.objects)
    exemplars = Exemplars(
        features=jnp.ones((*shape, *config.grid, config.feature_channels)),
        masks=_clips(shape[:2], config, config.objects)[1],
        scores=jnp.ones(shape),
        frames=jnp.broadcast_to(jnp.arange(config.exemplars)[:, None] + config.frames, shape),
        valid=jnp.ones(shape, bool),
    )
    features = jnp.ones((1, config.frames, *config.grid, config.feature_channels))
    params = corrector.init_params(config, 0)
    model = jax.jit(lambda *inputs: Corrector(config).apply({"params": params}, *inputs))
    inputs = images, masks, features, exemplars, jnp.arange(config.frames)[None]
    return lambda: model(*inputs)


def _clips(frames: tuple[int, int], config: SelectorConfig | CorrectorConfig, objects: int):
    """Random images, and random masks of objects."""
    size = (*frames, config.height, config.width)
    images = jax.random.normal(jax.random.key(0), (*size, 3))
    return images, jax.random.bernoulli(jax.random.key(1), 0.3, (*size, objects)).astype(float)

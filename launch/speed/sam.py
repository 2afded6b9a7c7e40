"""`python launch/benchmark.py sam`: time and memory of Segment Anything, random weights."""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from launch.speed.measure import report, time_runs
from oclr_jax.models.parameters import unflatten
from oclr_jax.models.sam import MODELS, parameter_shapes
from oclr_jax.models.sam.frames import square_image
from oclr_jax.refine.sam import SAMRefiner, decode_prompts, make_prompts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `sam`."""
    parser.add_argument("--model", choices=list(MODELS), default="ViT-B")
    parser.add_argument("--hq", action="store_true", help="HQ-SAM")
    parser.add_argument("--height", type=int, default=480, help="rows of the frames")
    parser.add_argument("--width", type=int, default=854, help="columns of the frames")
    parser.add_argument("--objects", type=int, default=3, help="objects in a frame")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--parts", nargs="+", help="which parts are timed (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def main(options: argparse.Namespace) -> None:
    """Prints the measurements, each of one frame."""
    config = replace(MODELS[options.model], hq=options.hq, compute_dtype=options.dtype)
    rng = np.random.default_rng(0)
    flat = {
        name: 0.02 * rng.standard_normal(shape, np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    variables = jax.device_put(unflatten(flat))
    refiner = SAMRefiner("sam", "random", "", config, variables)
    size = options.height, options.width
    frame = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    embedding = np.zeros((config.grid, config.grid, config.embedding_channels), np.float16)
    soft = np.zeros(size, np.float32)
    soft[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1

    def masks():
        prompts = make_prompts([soft] * options.objects, *size, config)
        return decode_prompts(variables, embedding, prompts, config, *size)

    parts = {
        "frame to image": lambda: square_image(frame, config.side),
        "encoder": lambda: next(refiner.embed([frame])),
        "prompts and masks": masks,
    }
    names = options.parts or list(parts)
    report({name: time_runs(parts[name], options.repeats) for name in names}, options)

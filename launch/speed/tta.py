"""`python launch/benchmark.py tta`: time of the parts of test-time adaptation, random weights."""

import argparse
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from launch.speed.measure import report, time_runs
from oclr_jax.models.dino import MODELS, parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.oclr.tta.backbone import Backbone
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.oclr.tta.finetune import make_step, pair_regions
from oclr_jax.oclr.tta.propagation import Propagator, object_masks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `tta`."""
    parser.add_argument("--model", choices=list(MODELS), default="ViT-S/8")
    parser.add_argument("--height", type=int, default=480, help="rows of the frames")
    parser.add_argument("--width", type=int, default=832, help="columns of the frames")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--parts", nargs="+", help="which parts are timed (default: all)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def main(options: argparse.Namespace) -> None:
    """Prints the measurements, each of one frame or one step."""
    config = TTAConfig()
    model = replace(MODELS[options.model], compute_dtype=options.dtype)
    rng = np.random.default_rng(0)
    flat = {
        name: 0.02 * rng.standard_normal(shape, np.float32)
        for name, shape in parameter_shapes(model).items()
    }
    backbone = Backbone(jax.device_put(unflatten(flat)), model, "random", "", config.blocks)
    size = (options.height, options.width)
    frame = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    cells = (size[0] // model.patch, size[1] // model.patch)
    tokens = rng.standard_normal((model.extra_tokens + cells[0] * cells[1], model.width))
    tokens = tokens.astype(np.float16)
    features = [
        jnp.asarray(each / np.linalg.norm(each, axis=-1, keepdims=True))
        for each in rng.standard_normal((2, *cells, model.width), np.float32)
    ]
    ids = np.zeros(cells, np.uint8)
    ids[cells[0] // 4 : cells[0] // 2, cells[1] // 4 : cells[1] // 2] = 1
    masks = object_masks(ids, [1, 2, 3])

    def propagator(previous: int) -> Propagator:
        made = Propagator(features[0], masks, config, previous)
        for _ in range(previous):
            made.remember(features[0], masks)
        return made

    every, few = propagator(config.previous), propagator(config.check_previous)
    step, optimizer = make_step(model, config)
    params, regions = backbone.last_params(), pair_regions(ids, ids)

    def finetune():
        state = optimizer.init(params)
        return step(params, state, backbone.variables, np.stack([tokens] * 2), *regions)[2]

    parts = {
        "frozen blocks": lambda: next(backbone.frozen_tokens(iter([frame]))),
        "last blocks": lambda: backbone.features(tokens, *size),
        "check": lambda: few.predict(features[1]),
        "propagation": lambda: every.predict(features[1]),
        "fine-tuning step": finetune,
    }
    names = options.parts or list(parts)
    report({name: time_runs(parts[name], options.repeats) for name in names}, options)

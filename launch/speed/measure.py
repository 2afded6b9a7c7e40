"""Timing of compiled functions, and the table and JSON file that report it."""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from oclr_jax.models.oclr import OCLRConfig


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Size of the model and of its clip; how often to run and where to report."""
    parser.add_argument("--frames", type=int, default=30, help="frames of the clip")
    parser.add_argument("--height", type=int, default=128, help="rows of the model grid")
    parser.add_argument("--width", type=int, default=224, help="columns of the model grid")
    parser.add_argument("--channels", type=int, nargs="+", default=list(OCLRConfig.channels))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--remat", action="store_true", help="recompute blocks going backward")
    parser.add_argument("--batch_size", type=int, default=1, help="clips")
    parser.add_argument("--repeats", type=int, default=5, help="runs that count")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def model_config(options: argparse.Namespace) -> OCLRConfig:
    """The configuration that the options describe."""
    return OCLRConfig(
        frames=options.frames,
        height=options.height,
        width=options.width,
        channels=tuple(options.channels),
        compute_dtype=options.dtype,
        remat=options.remat,
    )


def measure(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Medians of wall-clock and processor seconds of `run`, after a first run that compiles.

    Processor time counts all threads of this process, and so is steady where other work shares the
    machine; the wall clock is what a person waits.
    """
    start = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - start
    wall, processor = [], []
    for _ in range(repeats):
        start, start_processor = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    return {
        "seconds": statistics.median(wall),
        "fastest_seconds": min(wall),
        "processor_seconds": statistics.median(processor),
        "first_seconds": first,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def report(rows: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Prints a table of what was measured; `write_json` too."""
    names = next(iter(rows.values()))
    print(f"| what | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for what, figures in rows.items():
        print(f"| {what} | {' | '.join(f'{value:.3f}' for value in figures.values())} |")
    write_json(rows, options)


def write_json(rows: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Writes figures with their setting where `--json` says, if it says so."""
    if options.json:
        setting = {name: value for name, value in vars(options).items() if name != "json"}
        setting |= {
            "device": str(jax.devices()[0].device_kind),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "jax": jax.__version__,
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({"rows": rows, "setting": setting}, indent=1))

"""Timing of compiled functions; reports as a table and as JSON."""

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
    """Declares the options for model size, clip size and report."""
    parser.add_argument("--frames", type=int, default=30, help="frames per clip")
    parser.add_argument("--height", type=int, default=128, help="height of the model grid")
    parser.add_argument("--width", type=int, default=224, help="width of the model grid")
    parser.add_argument("--channels", type=int, nargs="+", default=list(OCLRConfig.channels))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--remat", action="store_true", help="recompute blocks in the backward pass"
    )
    parser.add_argument("--batch_size", type=int, default=1, help="clips per batch")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def model_config(options: argparse.Namespace) -> OCLRConfig:
    """The model configuration given by the options."""
    return OCLRConfig(
        frames=options.frames,
        height=options.height,
        width=options.width,
        channels=tuple(options.channels),
        compute_dtype=options.dtype,
        remat=options.remat,
    )


def time_runs(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Medians of wall-clock and CPU seconds of `run`, after a first run that compiles.

    CPU time is summed over all threads of the process. It is more stable than wall-clock time on a
    shared machine.
    """
    start = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - start
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return {
        "seconds": statistics.median(wall),
        "fastest_seconds": min(wall),
        "processor_seconds": statistics.median(cpu),
        "first_seconds": first,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def report(rows: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Prints a table of the results, and writes them as JSON with `--json`.

    A figure that a row lacks is an empty cell.
    """
    names = list(dict.fromkeys(name for figures in rows.values() for name in figures))
    print(f"| what | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for what, figures in rows.items():
        cells = (f"{figures[name]:.3f}" if name in figures else "" for name in names)
        print(f"| {what} | {' | '.join(cells)} |")
    write_json(rows, options)


def write_json(rows: dict[str, dict[str, float]], options: argparse.Namespace) -> None:
    """Writes the results and their settings to the file of `--json`, if given."""
    if options.json:
        setting = {name: value for name, value in vars(options).items() if name != "json"}
        setting |= {
            "device": str(jax.devices()[0].device_kind),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            "jax": jax.__version__,
            "python": platform.python_version(),
        }
        options.json.write_text(json.dumps({"rows": rows, "setting": setting}, indent=1))

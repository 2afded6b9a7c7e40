"""Speed of rendering, flow estimation and loading: `python launch/benchmark.py data`.

Rates are per core: work on one thread, divided by its processor time, so other processes do not
count. Times that training waits for data are wall-clock times.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import cv2
import numpy as np
from absl import logging

from data_pipelines.builders.examples import encode_sample
from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSynConfig, render_seen
from data_pipelines.loaders.batches import Loader
from data_pipelines.loaders.clips import clip_fields, make_clip_loader
from data_pipelines.loaders.rgb_clips import make_rgb_clip_loader
from data_pipelines.loaders.sequences import Sequences, dataset_directory
from data_pipelines.synthetic import SceneConfig
from launch.speed.measure import write_json
from oclr_jax.flow.dis import DIS
from oclr_jax.flow.gaps import gap_flows

_RENDER_SIZES = ((128, 224), (256, 448))  # the model grid, and the estimator's resolution
# What was measured, the value, and its unit.
_Row = tuple[str, float, str]


class _NoFlow:
    """A flow estimator that takes no time: all flow is zero."""

    batch = 1

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.zeros((*first.shape[:3], 2), np.float32)

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def settings(self) -> dict[str, str]:
        return {"estimator": "none"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `data`."""
    parser.add_argument("--sequences", type=int, default=24, help="clips to render at each size")
    parser.add_argument(
        "--data_dir", help="measure loading alone, of the dataset in this TFDS data directory"
    )
    parser.add_argument("--config", default="syn_small", help="dataset in --data_dir")
    parser.add_argument("--batch_size", type=int, default=2, help="clips in a batch")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2], help="numbers of rendering processes"
    )
    parser.add_argument("--workers", type=int, default=1, help="worker processes of the loader")
    parser.add_argument("--steps", type=int, default=50, help="simulated training steps")
    parser.add_argument("--step_s", type=float, default=1.0, help="seconds of a simulated step")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def main(options: argparse.Namespace) -> None:
    """Prints every value as soon as it is measured."""
    cv2.setNumThreads(1)
    logging.set_verbosity(logging.ERROR)  # TFDS warns about custom configurations
    rows: dict[str, dict[str, float]] = {}
    print("| what | value | unit |\n|---|---|---|")
    for what, figure, unit in _rows(options):
        rows[what] = {unit: figure}
        print(f"| {what} | {figure:.2f} | {unit} |", flush=True)
    write_json(rows, options)


def _rows(options: argparse.Namespace) -> Iterator[_Row]:
    if options.data_dir:
        yield from _loading(dataset_directory(options.data_dir, options.config), options)
        return
    for height, width in _RENDER_SIZES:
        yield from _rendering(height, width, options.sequences)
    with tempfile.TemporaryDirectory() as folder:
        for processes in options.processes:
            directory = Path(folder) / str(processes)
            directory = yield from _generation(directory, processes, options)
        yield from _loading(directory, options)


def _rendering(height: int, width: int, sequences: int) -> Iterator[_Row]:
    scene = SceneConfig(render_height=height, render_width=width)
    config = OclrSynConfig(name="benchmark", scene=scene)
    estimator = DIS(height=height, width=width)

    seconds = np.zeros(3)
    for index in range(sequences):
        rng = np.random.default_rng([0, 0, index])
        times = [time.process_time()]
        sample = render_seen(rng, config.scene, config.kind(index))
        times.append(time.process_time())
        gap_flows(sample["video"], (1, -1), estimator)
        times.append(time.process_time())
        encode_sample(sample, config.kind(index), _NoFlow(), "benchmark")
        times.append(time.process_time())
        seconds += np.diff(times)
    kinds = (
        "render (RGB, flow, occlusion, masks)",
        "estimate flow (both gaps)",
        "encode (resize, JPEG)",
        "total",
    )
    rates = sequences * scene.frames / np.append(seconds, seconds.sum())
    for what, rate in zip(kinds, rates, strict=True):
        yield f"{what}, {height}x{width}", float(rate), "frames/s per core"


def _generation(
    folder: Path, processes: int, options: argparse.Namespace
) -> Generator[_Row, None, Path]:
    """Generates a dataset, including the start of the processes."""
    splits = {"train": options.sequences}
    config = OclrSynConfig(name="benchmark", splits=splits, sequences_per_shard=2)
    start = time.perf_counter()
    directory, _ = generate_dataset(config, folder, DIS(), processes=processes, quiet=True)
    seconds = time.perf_counter() - start
    what = f"generate with {processes} processes"
    yield what, options.sequences / seconds, "sequences/s, wall clock"
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    yield f"{what}: largest process so far", peak, "MiB of memory"
    return directory


def _loading(directory: Path, options: argparse.Namespace) -> Iterator[_Row]:
    """Reads sequences and makes batches of clips of flow, then of RGB clips."""
    sequences = Sequences(directory, "train", clip_fields("estimated"))
    size = sum(path.stat().st_size for path in directory.iterdir()) / len(sequences)
    yield "a sequence on disk", size / 1e6, "MB"
    read = _cpu_seconds(sequences.__getitem__, min(len(sequences), 20))
    yield "read a sequence, median", 1e3 * statistics.median(read), "ms of a core"
    scene = SceneConfig()
    batches = {
        "frames": scene.frames,
        "batch_size": options.batch_size,
        "height": scene.height,
        "width": scene.width,
        "train": True,
        "workers": options.workers,
    }
    loader = make_clip_loader(directory, "train", **batches)
    clips = f"{options.batch_size} clips of {scene.frames} frames, {scene.height}x{scene.width}"
    seconds = _cpu_seconds(loader.__getitem__, 10)
    yield f"make a batch of {clips}, median", 1e3 * statistics.median(seconds), "ms of a core"
    rgb_loader = make_rgb_clip_loader(directory, "train", **batches)
    seconds = _cpu_seconds(rgb_loader.__getitem__, 10)
    yield (
        f"make a batch of {clips} with RGB, median",
        1e3 * statistics.median(seconds),
        "ms of a core",
    )
    waited = _waits(loader, options.steps, options.step_s)
    steps = f"{options.steps} steps of {options.step_s:g} s, {options.workers} workers"
    yield f"blocked in next(), median of {steps}", 1e3 * statistics.median(waited), "ms"
    share = sum(waited) / (options.steps * options.step_s)
    yield f"blocked in next(), all of {steps}", 100 * share, "% of the steps"


def _waits(loader: Loader, steps: int, step_s: float) -> list[float]:
    """Seconds that each step waits for its batch if its own work takes `step_s` elsewhere."""
    batches = loader.iterate()
    next(batches)
    waited = []
    for _ in range(steps):
        time.sleep(step_s)
        start = time.perf_counter()
        next(batches)
        waited.append(time.perf_counter() - start)
    batches.close()
    return waited


def _cpu_seconds(work: Callable[[int], object], count: int) -> list[float]:
    """Processor seconds of `work(index)` for each index below `count`."""
    seconds = []
    for index in range(count):
        start = time.process_time()
        work(index)
        seconds.append(time.process_time() - start)
    return seconds

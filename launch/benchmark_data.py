"""Speed of rendering, of estimating flow and of loading: `python launch/benchmark.py data`.

Rates are per core: work on one thread, divided by the processor time it took, so that what else
runs on the machine does not count. Times that a training waits are wall-clock times.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from absl import logging

from data_pipelines.builders.examples import encode_sample
from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSynConfig, render_seen
from data_pipelines.loaders import Loader, Sequences, clip_fields, dataset_directory, make_loader
from data_pipelines.synthetic import SceneConfig
from oclr_jax.flow.estimator import DIS
from oclr_jax.flow.gaps import gap_flows

_RENDER_SIZES = ((128, 224), (256, 448))  # the model grid, and the estimator's resolution


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `data` understands."""
    parser.add_argument("--sequences", type=int, default=24, help="clips to render at each size")
    parser.add_argument("--data_dir", help="load from here instead of a small dataset made anew")
    parser.add_argument("--config", default="syn_small", help="dataset in --data_dir")
    parser.add_argument("--batch_size", type=int, default=2, help="clips in a batch")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2], help="numbers of rendering processes"
    )
    parser.add_argument("--workers", type=int, default=0, help="worker processes of the loader")
    parser.add_argument("--steps", type=int, default=10, help="batches to load")
    parser.add_argument("--step_s", type=float, default=1.0, help="seconds of a simulated step")


def main(options: argparse.Namespace) -> None:
    """Prints all figures."""
    cv2.setNumThreads(1)
    logging.set_verbosity(logging.ERROR)  # TFDS warns of a configuration of our own
    for height, width in _RENDER_SIZES:
        _print_rendering(height, width, options.sequences)
    if options.data_dir:
        _print_loading(dataset_directory(options.data_dir, options.config), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        for processes in options.processes:
            directory = _print_generation(Path(folder) / str(processes), processes, options)
        _print_loading(directory, options)


def _print_rendering(height: int, width: int, sequences: int) -> None:
    scene = SceneConfig(render_height=height, render_width=width)
    config = OclrSynConfig(name="benchmark", scene=scene)
    estimator = DIS(height=height, width=width)
    frames = sequences * config.scene.frames
    samples = []

    def draw() -> None:
        for index in range(sequences):
            rng = np.random.default_rng([0, 0, index])
            samples.append(render_seen(rng, config.scene, config.kind(index)))

    def estimate() -> None:
        for sample in samples:
            gap_flows(sample["video"], (1, -1), estimator)

    def no_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.zeros((len(first), height, width, 2), np.float32)

    def encode() -> None:
        for index, sample in enumerate(samples):
            encode_sample(sample, config.kind(index), no_flow, "benchmark")

    size = f"{height}x{width}"
    rendering, estimating = _cpu_seconds(draw), _cpu_seconds(estimate)
    encoding = _cpu_seconds(encode)
    print(
        f"render {size}: {frames / rendering:.0f} frames/s per core (RGB, flow, occlusion, masks)"
    )
    print(f"estimate flow {size}: {frames / estimating:.0f} frames/s per core (both gaps)")
    print(f"encode {size}: {frames / encoding:.0f} frames/s per core (resize, JPEG)")
    whole = rendering + estimating + encoding
    print(f"all of it {size}: {frames / whole:.0f} frames/s per core")


def _print_generation(folder: Path, processes: int, options: argparse.Namespace) -> Path:
    """A whole dataset through `generate_dataset`, start of the processes included."""
    splits = {"train": options.sequences}
    config = OclrSynConfig(name="benchmark", splits=splits, sequences_per_shard=2)
    start = time.perf_counter()
    directory, _ = generate_dataset(config, folder, DIS(), processes=processes, quiet=True)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in directory.iterdir()) / options.sequences
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"generate with {processes} processes: {options.sequences / seconds:.2f} sequences/s by "
        f"the clock, {size / 1e6:.2f} MB each, at most {peak:.0f} MiB of memory a process"
    )
    return directory


def _print_loading(directory: Path, options: argparse.Namespace) -> None:
    sequences = Sequences(directory, "train", clip_fields("estimated"))
    count = min(len(sequences), 20)
    read = _cpu_seconds(lambda: [sequences[index] for index in range(count)])
    size = sum(path.stat().st_size for path in directory.iterdir()) / len(sequences)
    print(f"read: {count / read:.0f} sequences/s per core, {size / 1e6:.1f} MB each on disk")
    scene = SceneConfig()
    loader = make_loader(
        directory,
        "train",
        frames=scene.frames,
        batch_size=options.batch_size,
        height=scene.height,
        width=scene.width,
        train=True,
        workers=options.workers,
    )
    shape = f"{options.batch_size} clips of {scene.frames} frames at {scene.height}x{scene.width}"
    batch = _cpu_seconds(lambda: [loader[step] for step in range(options.steps)]) / options.steps
    print(f"make a batch of {shape}: {1e3 * batch:.0f} ms of one core")
    waited = _wait_seconds(loader, options.steps, options.step_s)
    print(
        f"blocked in next(): {1e3 * waited:.1f} ms a step of {options.step_s} s "
        f"({100 * waited / options.step_s:.2f} %), {options.workers} workers"
    )


def _wait_seconds(loader: Loader, steps: int, step_s: float) -> float:
    """Mean time that a loop blocks for a batch whose own work is `step_s` off this core."""
    batches = loader.iterate()
    next(batches)
    waited = 0.0
    for _ in range(steps):
        time.sleep(step_s)
        start = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - start
    batches.close()
    return waited / steps


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start

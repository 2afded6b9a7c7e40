"""`python launch/benchmark.py metrics`: time of J and F, and of scoring DAVIS2016 from masks."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from oclr_jax.datasets.benchmarks import BENCHMARKS
from oclr_jax.evaluate import evaluate_dataset
from oclr_jax.ops.boundary import boundary_f
from oclr_jax.ops.metrics import jaccard
from oclr_jax.video.png import write_ids, write_png

_SIZE = (480, 854)
_FRAMES = 1376  # in the validation sequences of DAVIS2016


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `metrics`."""
    parser.add_argument("--frames", type=int, default=_FRAMES, help="number of frames to score")


def main(options: argparse.Namespace) -> None:
    """Prints the measurements."""
    truth = np.stack([_shape(number) for number in range(50)]) > 0
    predicted = np.roll(truth, (5, 9), axis=(1, 2))
    print("| what | milliseconds per frame |\n|---|---|")
    for name, metric in (("J", jaccard), ("F", boundary_f)):
        seconds = [_timed(metric, predicted, truth) for _ in range(5)]
        print(f"| {name} at 480p | {1e3 * sorted(seconds)[2] / len(truth):.2f} |")
    with tempfile.TemporaryDirectory() as folder:
        frames = _write_dataset(Path(folder), options.frames)
        start, start_cpu = time.perf_counter(), time.process_time()
        evaluate_dataset(
            "davis2016",
            Path(folder) / "DAVIS",
            results=Path(folder) / "masks",
            output=Path(folder) / "out",
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(
        f"\n{frames} frames from masks, report included: {seconds:.1f} s, {cpu:.1f} s of CPU time"
    )


def _timed(metric: Callable, predicted: np.ndarray, truth: np.ndarray) -> float:
    start = time.perf_counter()
    metric(predicted, truth)
    return time.perf_counter() - start


def _shape(number: int) -> np.ndarray:
    """A moving mask with some detail in its outline; about a tenth of the frame."""
    mask = np.zeros(_SIZE, np.uint8)
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radius = 100 + 20 * np.sin(5 * angles + number / 7) + 8 * np.sin(23 * angles)
    x = 250 + 3 * (number % 100) + 1.3 * radius * np.cos(angles)
    y = 240 + radius * np.sin(angles)
    cv2.fillPoly(mask, [np.stack([x, y], axis=1).round().astype(np.int32)], 1)
    return mask


def _write_dataset(folder: Path, frames: int) -> int:
    names = BENCHMARKS["davis2016"].sequences()
    noise = np.random.default_rng(0).integers(0, 255, (*_SIZE, 3)).astype(np.uint8)
    picture = cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 4))[1].tobytes()
    for index, name in enumerate(names):
        images = folder / "DAVIS" / "JPEGImages" / "480p" / name
        images.mkdir(parents=True)
        for number in range(frames // len(names) + (index < frames % len(names))):
            (images / f"{number:05d}.jpg").write_bytes(picture)
            mask = _shape(number)
            truth = folder / "DAVIS" / "Annotations" / "480p" / name / f"{number:05d}.png"
            write_png(truth, mask * np.uint8(255))
            write_ids(folder / "masks" / name / f"{number:05d}.png", np.roll(mask, 6, axis=1))
    return frames

"""`python launch/benchmark.py segment`: speed and memory of `oclr segment`, start to finish.

Each video length is one run of the command in its own process: decoding, flow, model and output.
A first run fills the compilation cache and does not count.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from data_pipelines.synthetic import SceneConfig, render, sample_scene
from oclr_jax.video.resize import resize_image
from oclr_jax.video.writer import video_writer

ROOT = Path(__file__).resolve().parents[2]
_FPS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `segment`."""
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 1000], help="video lengths")
    parser.add_argument("--height", type=int, default=480, help="frame height in pixels")
    parser.add_argument("--width", type=int, default=854, help="frame width in pixels")
    parser.add_argument("segment", nargs="*", help="after --: options of `oclr segment`")


def main(options: argparse.Namespace) -> None:
    """Prints frames per second, CPU time and peak memory for each length."""
    with tempfile.TemporaryDirectory() as folder:
        frames = _one_scene(options.height, options.width)
        for length in [len(frames), *options.frames]:
            video = Path(folder) / f"{length}.mp4"
            _write(video, frames, length)
            wall, cpu, peak = _run([str(video), f"{folder}/{length}", *options.segment])
            if length != len(frames):
                print(
                    f"{length} frames of {options.width}x{options.height}: "
                    f"{length / wall:.2f} frames/s ({wall:.1f} s, {cpu:.1f} s of CPU time "
                    f"on {os.cpu_count()} cores), peak memory {peak / 2**20:.0f} MiB",
                    flush=True,
                )


def _one_scene(height: int, width: int) -> list[np.ndarray]:
    video = render(sample_scene(np.random.default_rng(0), SceneConfig(), objects=3))["video"]
    return [resize_image(frame, height, width) for frame in video]


def _write(path: Path, frames: list[np.ndarray], length: int) -> None:
    """Writes a video that plays the frames forward and backward up to the wanted length."""
    there_and_back = frames + frames[-2:0:-1]
    with video_writer(path, _FPS, *frames[0].shape[:2]) as add_frame:
        for number in range(length):
            add_frame(there_and_back[number % len(there_and_back)])


def _run(arguments: list[str]) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds, peak bytes) of one `oclr segment`."""
    command = [sys.executable, "-m", "oclr_jax.cli", "segment", *arguments, "--quiet"]
    start = time.perf_counter()
    process = os.posix_spawn(sys.executable, command, os.environ | {"PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024

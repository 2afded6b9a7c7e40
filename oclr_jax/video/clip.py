"""A video that was looked through once: its frames' names, its size, its shots."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from oclr_jax.errors import UserError
from oclr_jax.video.reader import FOLDER_FPS, MIN_SIDE, open_video
from oclr_jax.video.shots import find_shots

Item = TypeVar("Item")


@dataclass(frozen=True)
class Clip:
    """A video whose frames were all looked at once, and can be read again and again."""

    name: str
    stems: list[str]  # file name of each frame, without suffix
    height: int
    width: int
    fps: Fraction
    shots: list[range]
    frames: Callable[[], Iterator[UInt8[np.ndarray, "h w 3"]]]

    @property
    def count(self) -> int:
        return len(self.stems)


def open_clip(source: str | os.PathLike | UInt8[np.ndarray, "t h w 3"], quiet: bool = True) -> Clip:
    """Opens a video file, a folder of frames or an array of RGB frames, and looks through it once.

    Raises UserError for what cannot be segmented, a broken frame anywhere in it included.
    """
    if isinstance(source, np.ndarray):
        return _array_clip(source)
    video = open_video(source)
    shots = find_shots(progress(video, "reading", video.expected_frames, quiet))
    return Clip(
        name=video.path.name if video.path.is_dir() else video.path.stem,
        stems=[video.stem(frame) for frame in range(shots[-1].stop)],
        height=video.height,
        width=video.width,
        fps=video.fps,
        shots=shots,
        frames=lambda: iter(video),
    )


def progress(items: Iterable[Item], what: str, total: int | None, quiet: bool) -> Iterator[Item]:
    """The items, with a progress bar that is silent where standard error is no terminal."""
    yield from tqdm(items, what, total, leave=False, disable=quiet or None)


def _array_clip(frames: UInt8[np.ndarray, "t h w 3"]) -> Clip:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise UserError(
            f"Frames must be a uint8 array of shape [t h w 3] in RGB, got {frames.dtype} of shape "
            f"{list(frames.shape)}."
        )
    if len(frames) < 2 or min(frames.shape[1:3]) < MIN_SIDE:
        raise UserError(
            f"There are {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]} pixels; at "
            f"least 2 are needed, each side with {MIN_SIDE} or more."
        )
    stems = [f"{frame:05d}" for frame in range(len(frames))]
    shots = find_shots(frames)
    return Clip("frames", stems, *frames.shape[1:3], FOLDER_FPS, shots, lambda: iter(frames))

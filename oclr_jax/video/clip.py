"""A video that was read through once: its frames' names and times, its size, its shots."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from oclr_jax.errors import InputWarning, UserError
from oclr_jax.video.folder import FOLDER_FPS
from oclr_jax.video.reader import MIN_SIDE, VideoSource, open_video
from oclr_jax.video.shots import find_shots
from oclr_jax.video.times import even_times, frame_times

Item = TypeVar("Item")


@dataclass(frozen=True)
class Clip:
    """A video whose frames were all read once, and can be read again and again."""

    name: str
    stems: list[str]  # file name of each frame, without suffix
    height: int
    width: int
    fps: Fraction  # (n - 1) / (last time - first time)
    times: list[Fraction]  # of each frame, in seconds from the first; strictly increasing
    shots: list[range]
    frames: Callable[[], Iterator[UInt8[np.ndarray, "h w 3"]]]
    pixel_aspect: Fraction = Fraction(1)  # width / height of a pixel

    @property
    def count(self) -> int:
        return len(self.stems)


def open_clip(
    source: str | os.PathLike | UInt8[np.ndarray, "t h w 3"],
    quiet: bool = True,
    keep_damaged: bool = False,
) -> Clip:
    """Opens a video file, a folder of frames or an array of RGB frames, and reads it once.

    With `keep_damaged`, a damaged video file is reduced to its whole frames, and an InputWarning
    says how many are missing. Raises UserError for what cannot be segmented, a broken frame
    anywhere in it included.
    """
    if isinstance(source, np.ndarray):
        return _array_clip(source)
    video = open_video(source, keep_damaged)
    if video.damage is not None:
        text = f"{video.path} is damaged: {video.damage}, the others are left out."
        warnings.warn(text, InputWarning, stacklevel=2)
    stamps: list[Fraction | None] = []

    def images() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        frames = progress(video.timed_frames(), "reading", video.expected_frames, quiet)
        for time, image in frames:
            stamps.append(time)
            yield image

    shots = find_shots(images())
    times, fps = frame_times(stamps, video.rate, video.tick)
    return Clip(
        name=video.path.name if video.path.is_dir() else video.path.stem,
        stems=[video.stem(frame) for frame in range(len(stamps))],
        height=video.height,
        width=video.width,
        fps=fps,
        times=times,
        shots=shots,
        frames=lambda: _same_number(video, len(stamps)),
        pixel_aspect=video.pixel_aspect,
    )


def progress(items: Iterable[Item], what: str, total: int | None, quiet: bool) -> Iterator[Item]:
    """The items, with a progress bar that is silent where standard error is no terminal."""
    yield from tqdm(items, what, total, leave=False, disable=quiet or None)


def _same_number(video: VideoSource, count: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames again; UserError where they are not as many as before."""
    number = 0
    for number, image in enumerate(video, start=1):
        if number > count:
            break
        yield image
    if number != count:
        raise UserError(
            f"{video.path} changed while it was read; wait until it is complete and try again."
        )


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
    return Clip(
        name="frames",
        stems=[f"{frame:05d}" for frame in range(len(frames))],
        height=frames.shape[1],
        width=frames.shape[2],
        fps=FOLDER_FPS,
        times=even_times(len(frames), FOLDER_FPS),
        shots=find_shots(frames),
        frames=lambda: iter(frames),
    )

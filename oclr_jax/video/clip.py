"""A video that was read through once: its frames' names and times, its size, its shots."""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from oclr_jax.errors import InputWarning, UserError
from oclr_jax.video.folder import FOLDER_FPS
from oclr_jax.video.reader import MIN_FRAME_SIDE, VideoSource, open_video
from oclr_jax.video.repeats import RepeatFinder
from oclr_jax.video.shots import find_shots, thumbnail
from oclr_jax.video.times import even_times, frame_times

Item = TypeVar("Item")

# With "json" in this environment variable, `progress` writes lines for another program.
PROGRESS = "OCLR_PROGRESS"
_SECONDS_BETWEEN_LINES = 0.2


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
    repeats: dict[int, int] = field(default_factory=dict)  # number of the frame that one repeats

    @property
    def count(self) -> int:
        return len(self.stems)

    def without_repeats(self) -> "Clip":
        """The clip less the frames that repeat an earlier one; `positions` leads back."""
        kept = [frame for frame in range(self.count) if frame not in self.repeats]
        before = np.searchsorted(kept, [shot.start for shot in self.shots] + [self.count])

        def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
            return (image for frame, image in enumerate(self.frames()) if frame not in self.repeats)

        return replace(
            self,
            stems=[self.stems[frame] for frame in kept],
            times=[self.times[frame] for frame in kept],
            shots=[range(int(a), int(b)) for a, b in pairwise(before)],
            frames=frames,
            repeats={},
        )

    def positions(self) -> list[int]:
        """For each frame, the number in `without_repeats()` of itself or of what it repeats."""
        originals = [self.repeats.get(frame, frame) for frame in range(self.count)]
        numbers = {frame: number for number, frame in enumerate(sorted(set(originals)))}
        return [numbers[original] for original in originals]


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
        for stamp, image in frames:
            stamps.append(stamp)
            yield image

    shots, repeats = _shots_and_repeats(images())
    for items in video.left_out:
        text = f"{video.path} has {items}; they are left out."
        warnings.warn(text, InputWarning, stacklevel=2)
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
        repeats=repeats,
    )


def progress(items: Iterable[Item], what: str, total: int | None, quiet: bool) -> Iterator[Item]:
    """The items, with a progress bar that is silent where standard error is no terminal.

    Where the environment variable OCLR_PROGRESS is "json", the bar is replaced by lines on standard
    error: `{"stage": "reading", "done": 12, "total": 100}`, `total` null where it is not known.
    """
    if os.environ.get(PROGRESS) == "json":
        yield from _in_lines(items, what, total)
    else:
        yield from tqdm(items, what, total, leave=False, disable=quiet or None)


def _in_lines(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    told = -_SECONDS_BETWEEN_LINES
    for done, item in enumerate(items):
        if time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            line = json.dumps({"stage": what, "done": done, "total": total})
            print(line, file=sys.stderr, flush=True)
        yield item


def _shots_and_repeats(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
) -> tuple[list[range], dict[int, int]]:
    """The shots, and for each frame that repeats an earlier one of its shot that one's number."""
    finder = RepeatFinder()

    def thumbnails() -> Iterator[UInt8[np.ndarray, "64 112 3"]]:
        for frame in frames:
            small = thumbnail(frame)
            finder.add(small)
            yield small

    shots = find_shots(thumbnails())
    originals = finder.originals()
    inside = ((frame, shot.start) for shot in shots for frame in shot)
    return shots, {
        frame: originals[frame] for frame, start in inside if start <= originals[frame] < frame
    }


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
    if len(frames) < 2 or min(frames.shape[1:3]) < MIN_FRAME_SIDE:
        raise UserError(
            f"There are {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]} pixels; at "
            f"least 2 are needed, each side with {MIN_FRAME_SIDE} or more."
        )
    shots, repeats = _shots_and_repeats(frames)
    return Clip(
        name="frames",
        stems=[f"{frame:05d}" for frame in range(len(frames))],
        height=frames.shape[1],
        width=frames.shape[2],
        fps=FOLDER_FPS,
        times=even_times(len(frames), FOLDER_FPS),
        shots=shots,
        frames=lambda: iter(frames),
        repeats=repeats,
    )

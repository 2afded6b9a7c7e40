"""Streams the optical flow of a clip, frame by frame, on a model's grid."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.folder import FlowFolder
from oclr_jax.flow.gaps import stream_gap_flows
from oclr_jax.flow.resize import resize_flow
from oclr_jax.video.clip import Clip
from oclr_jax.video.resize import resize_image


class FrameFlow(NamedTuple):
    """The flow of one frame of a video."""

    shot: int  # index of the frame's shot
    frame: int  # index of the frame in the video
    flow: Float32[np.ndarray, "h w c"]  # (u, v) per gap, in pixels of the model grid
    image: UInt8[np.ndarray, "h w 3"]  # the frame itself, RGB, on the model grid


def stream_flow(
    clip: Clip,
    source: FlowEstimator | FlowFolder,
    gaps: Sequence[int],
    size: tuple[int, int],
) -> Iterator[FrameFlow]:
    """Yields the flow of each frame at all gaps, and the frame, resized to `size` (height, width).

    Each shot is treated as a video of its own. A shot too short to have flow at the gaps is left
    out. Only a few frames are held in memory at a time.
    """
    shortest = 2 * max(abs(gap) for gap in gaps)
    frames = clip.frames()
    for number, shot in enumerate(clip.shots):
        images = islice(frames, len(shot))
        if len(shot) < shortest:
            for _ in images:
                pass
            continue
        for frame, field, image in shot_flow(images, shot, source, gaps, size):
            yield FrameFlow(number, frame, field, image)


def shot_flow(
    images: Iterable[UInt8[np.ndarray, "h w 3"]],
    frames: Iterable[int],
    source: FlowEstimator | FlowFolder,
    gaps: Sequence[int],
    size: tuple[int, int],
    batch: int | None = None,
) -> Iterator[tuple[int, Float32[np.ndarray, "h w c"], UInt8[np.ndarray, "h w 3"]]]:
    """Yields the number, the flow and the image of each frame of one shot, resized to `size`.

    Args:
      images: of a shot that is long enough to have flow at the gaps.
      frames: their numbers in the video; a range where the flow is read from a folder.
      batch: see `stream_gap_flows`.
    """
    small: deque[np.ndarray] = deque()  # frames whose flow has not been yielded yet
    kept = _keep_small(images, size, small)
    if isinstance(source, FlowFolder):
        fields = (source.read(frame, within=frames) for frame, _ in zip(frames, kept, strict=True))
    else:
        fields = stream_gap_flows(kept, gaps, source, batch)
    # The flow first: there is one for each image, and there may be more numbers.
    for field, frame in zip(fields, frames, strict=False):
        yield frame, resize_flow(field, *size), small.popleft()


def _keep_small(
    images: Iterable[UInt8[np.ndarray, "h w 3"]], size: tuple[int, int], small: deque
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Yields the images and appends each, resized, to `small`."""
    for image in images:
        small.append(resize_image(image, *size))
        yield image

"""Streams the optical flow of a clip, frame by frame, on a model's grid."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.folder import FlowFolder
from oclr_jax.flow.gaps import stream_gap_flows
from oclr_jax.flow.resize import resize_flow
from oclr_jax.video.clip import Clip


class FrameFlow(NamedTuple):
    """The flow of one frame of a video."""

    shot: int  # index of the frame's shot
    frame: int  # index of the frame in the video
    flow: Float32[np.ndarray, "h w c"]  # (u, v) per gap, in pixels of the model grid


def stream_flow(
    clip: Clip,
    source: FlowEstimator | FlowFolder,
    gaps: Sequence[int],
    size: tuple[int, int],
) -> Iterator[FrameFlow]:
    """Yields the flow of each frame at all gaps, resized to (height, width) = `size`.

    Each shot is treated as a video of its own. A shot too short to have flow at the gaps is left
    out. Only a few frames are held in memory at a time.
    """
    shortest = 2 * max(abs(gap) for gap in gaps)
    frames = clip.frames()
    for number, shot in enumerate(clip.shots):
        if isinstance(source, FlowFolder):
            fields = (source.read(frame, within=shot) for frame in shot)
        else:
            images = islice(frames, len(shot))
            if len(shot) < shortest:
                for _ in images:
                    pass
            fields = stream_gap_flows(images, gaps, source)
        if len(shot) >= shortest:
            for frame, field in zip(shot, fields, strict=True):
                yield FrameFlow(number, frame, resize_flow(field, *size))

"""Estimates the flow of a video and writes it to files, in the layout that `--flow` reads."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.files import staged_output
from oclr_jax.flow import FlowEstimator, flow_path, resize_flow, write_flo
from oclr_jax.flow.estimator import estimate
from oclr_jax.flow.kitti import write_kitti
from oclr_jax.ops.flow_metrics import photometric_error
from oclr_jax.show.flow_color import flow_to_rgb
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.png import write_png
from oclr_jax.video.resize import resize_image

FORMATS = ("flo", "kitti")


class Check(NamedTuple):
    """How well flow explains a video: mean absolute difference of two frames, in grey levels."""

    gap: int
    before: float  # of the frames as they are
    after: float  # with the second frame warped by the flow


def flow_to_folder(
    input: str | os.PathLike,
    output: str | os.PathLike,
    estimator: FlowEstimator,
    gaps: Sequence[int] = (1, -1),
    format: str = "flo",
    color: bool = False,
    check: bool = False,
    keep_damaged: bool = False,
    quiet: bool = True,
) -> list[Check]:
    """Writes the flow of a video to the folder `output`, whole or not at all.

    The files are `Flows_gap<gap>/<stem>.flo`, or `.png` for the format "kitti", for each frame that
    has a neighbour at the gap. The flow is in pixels of the frames and has their size. The video is
    streamed, so memory does not grow with its length.

    Args:
      input: a video file or a folder of frames.
      output: the folder, created if it is missing.
      estimator: of the flow.
      gaps: in frames.
      format: "flo" or "kitti".
      color: also write the flow as pictures, to `Colors_gap<gap>`.
      check: also compute how well the flow explains the frames.
      keep_damaged: as in `open_clip`.
      quiet: no progress bar.

    Returns:
      with `check`, the mean over all pairs for each gap; else nothing.

    Raises:
      UserError: for gaps, videos and formats that cannot be used, and if `output` already has such
        folders.
    """
    if format not in FORMATS:
        raise UserError(f"There is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    if not gaps or 0 in gaps or len(set(gaps)) != len(gaps):
        raise UserError("The gaps must be different whole numbers other than 0, such as 1,-1.")
    reach = max(abs(gap) for gap in gaps)
    names = tuple(f"{kind}_gap{gap}" for kind in ("Flows", "Colors") for gap in gaps)
    errors: dict[int, list[tuple[float, float]]] = {gap: [] for gap in gaps}
    with staged_output(output, names, inputs=(input,)) as folder:
        clip = open_clip(input, quiet, keep_damaged)
        if reach >= clip.count:
            raise UserError(
                f"Flow at gap {reach} needs at least {reach + 1} frames, and there are "
                f"{clip.count}; use a longer video or a smaller gap."
            )
        for (gap, index, first, second), flow in _flows(clip, gaps, estimator, quiet):
            stem = clip.stems[index]
            _write(flow_path(folder, gap, stem), flow, format)
            if color:
                write_png(folder / f"Colors_gap{gap}" / f"{stem}.png", flow_to_rgb(flow))
            if check:
                before = photometric_error(first, second)
                errors[gap].append((before, photometric_error(first, second, flow)))
    return [
        Check(gap, *(float(error) for error in np.mean(found, axis=0)))
        for gap, found in errors.items()
        if found
    ]


class _Pair(NamedTuple):
    gap: int
    index: int
    first: UInt8[np.ndarray, "h w 3"]
    second: UInt8[np.ndarray, "h w 3"]


def _pairs(clip: Clip, gaps: Sequence[int], quiet: bool) -> Iterator[_Pair]:
    """Yields every pair of frames at the gaps; holds as many frames as the largest gap spans."""
    reach = max(abs(gap) for gap in gaps)
    held: dict[int, np.ndarray] = {}
    frames = progress(clip.frames(), "estimating flow", clip.count, quiet)
    for newest, frame in enumerate(frames):
        held[newest] = frame
        for gap in gaps:
            index = newest - max(gap, 0)
            if min(index, index + gap) >= 0:
                yield _Pair(gap, index, held[index], held[index + gap])
        held.pop(newest - reach, None)


def _flows(
    clip: Clip, gaps: Sequence[int], estimator: FlowEstimator, quiet: bool
) -> Iterator[tuple[_Pair, Float32[np.ndarray, "h w 2"]]]:
    """Yields every pair with its flow at the frame size; estimates a few pairs at a time."""
    size = estimator.working_size(clip.height, clip.width)
    pairs = _pairs(clip, gaps, quiet)
    while batch := list(islice(pairs, estimator.batch * len(gaps))):
        first, second = (
            np.stack([resize_image(getattr(pair, side), *size) for pair in batch])
            for side in ("first", "second")
        )
        flows = resize_flow(estimate(estimator, first, second), clip.height, clip.width)
        yield from zip(batch, flows, strict=True)


def _write(path: Path, flow: Float32[np.ndarray, "h w 2"], format: str) -> None:
    if format == "flo":
        write_flo(path, flow)
    else:
        write_kitti(path.with_suffix(".png"), flow)

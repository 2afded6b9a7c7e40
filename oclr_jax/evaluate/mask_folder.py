"""Reads predictions from a folder of masks that any program wrote."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oclr_jax.datasets.benchmarks import (
    DAVIS2017_MOTION_COLOURS,
    MAX_PROPOSALS,
    WINDOW,
    WINDOW_OBJECTS,
    YTVOS2018_MOTION_COLOURS,
)
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate.protocols import Prediction, on_windows
from oclr_jax.evaluate.truth import Truth
from oclr_jax.oclr.windows import frame_groups
from oclr_jax.ops.metrics import present_ids
from oclr_jax.video.palette import DAVIS_PALETTE

_LISTED = 20  # bad files that an error lists, at most


def read_results(
    folder: str | os.PathLike,
    sequence: BenchmarkSequence,
    truth: Truth,
    protocols: Sequence[str],
) -> Prediction:
    """Reads the masks of one sequence, `<folder>/<sequence>/<frame>.png`, of the scored frames.

    Raises one UserError that lists every file that is missing, is not an indexed or 8-bit grey PNG,
    has the wrong size or palette, or has ids beyond 255; also, under `paper`, for windows with more
    ids than the model has layers.
    """
    place = Path(folder) / sequence.folder
    if not place.is_dir():
        raise UserError(f"There are no results for {sequence.folder}; add the folder {place}.")
    needed = {index for name in protocols for index in _needed(truth, name)}
    shape, ids, wrong = truth.ids.shape[1:], np.zeros_like(truth.ids), []
    for index in sorted(needed):
        path = place / f"{sequence.stems[truth.frames[index]]}.png"
        mask = _read_mask(path, shape)
        if isinstance(mask, str):
            wrong.append(f"{sequence.folder}/{path.name} {mask}")
        else:
            ids[index] = mask
    if wrong:
        more = f"; and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise UserError(
            f"{len(wrong)} files in {folder} cannot be scored: {'; '.join(wrong[:_LISTED])}{more}."
        )
    windows = []
    if any(on_windows(name) for name in protocols):
        windows = _split(ids, truth, sequence)
    return Prediction(windows, ids, foreground_only=True)


def _needed(truth: Truth, protocol: str) -> range:
    # The published program matches whole windows, including frames that it does not score.
    count = len(truth.frames)
    return range(count) if on_windows(protocol) else range(count)[truth.counted(protocol)]


def _split(
    ids: UInt8[np.ndarray, "t h w"], truth: Truth, sequence: BenchmarkSequence
) -> list[tuple[list[int], UInt8[np.ndarray, "n h w"]]]:
    """Cuts the masks into the windows of the published program."""
    index_of, windows = {frame: index for index, frame in enumerate(truth.frames)}, []
    for group in frame_groups(len(sequence.stems), WINDOW):
        frames = sorted(set(group) & index_of.keys())
        if not frames:
            continue
        here = ids[[index_of[frame] for frame in frames]]
        count = len(present_ids(here))
        if count > WINDOW_OBJECTS:
            raise UserError(
                f"The masks of {sequence.folder} hold {count} ids in frames {frames[0]} to "
                f"{frames[-1]}; the protocol paper takes at most {WINDOW_OBJECTS} in a window of "
                f"{WINDOW} frames, so choose another protocol for them."
            )
        windows.append((frames, here))
    return windows


def _read_mask(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w"] | str:
    """The ids of a mask, or what is wrong with its file."""
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        return "is missing"
    except (OSError, SyntaxError, ValueError):
        return "is not a complete PNG"
    if image.size != shape[::-1]:
        return f"is {image.size[0]}x{image.size[1]} and its frame {shape[1]}x{shape[0]}"
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    values = np.array(image)
    if image.mode.startswith("I"):
        return f"has ids up to {values.max()}, beyond 255"
    if image.mode not in ("P", "L"):
        return f"is an image of mode {image.mode}, not an indexed one"
    used = present_ids(values)
    if image.mode == "P" and not _is_palette(image, used):
        return "does not have the DAVIS palette, so its ids cannot be trusted"
    if used == [255]:  # foreground in black and white
        return (values > 0).astype(np.uint8)
    # Some ids may be absent from a frame, but ids are not that large and scattered.
    if image.mode == "L" and len(used) < max(used, default=0) and used[-1] > MAX_PROPOSALS:
        return f"is grey with values such as {used[-1]}: colours of ids, not ids"
    return values


def _is_palette(image: Image.Image, used: list[int]) -> bool:
    """Whether the used ids have the colours of a known palette, or greys."""
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    known = [DAVIS_PALETTE]
    for listed in (DAVIS2017_MOTION_COLOURS, YTVOS2018_MOTION_COLOURS):
        known.append(np.array([(0, 0, 0), *listed]))
    known.append(np.repeat(np.arange(256), 3).reshape(-1, 3))
    return any(
        all(
            id < min(len(palette), len(colours)) and (colours[id] == palette[id]).all()
            for id in used
        )
        for palette in known
    ) or (used in ([1], [255]) and bool((colours[used[0]] == 255).all()))

"""One video with alpha per object, for editors and compositing programs."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from oclr_jax.export.result import Result
from oclr_jax.video.writer import alpha_writer

# Encoders that are open at once; the video is decoded once for each group of so many objects.
_TOGETHER = 4
# Beyond the mask, colours are kept for so many pixels, so that an editor may soften or grow the
# edge without a dark fringe. The rest is black, which takes little space.
_MARGIN = 16


def write_alpha(folder: Path, results: Sequence[Result]) -> None:
    """Writes `<id>.mov` for each object, ProRes 4444: the frames, with its visible mask as alpha.

    Alpha is straight. Size, pixel aspect and the time of every frame are those of the video.
    """
    (result,) = results
    folder.mkdir()
    ids = [entry["id"] for entry in result.record["objects"]]
    for start in range(0, len(ids), _TOGETHER):
        _write_group(folder, result, ids[start : start + _TOGETHER])


def _write_group(folder: Path, result: Result, ids: Sequence[int]) -> None:
    size, shown = (result.height, result.width), (result.times, result.pixel_aspect)
    with ExitStack() as opened:
        writers = {
            id: opened.enter_context(alpha_writer(folder / f"{id}.mov", result.fps, *size, *shown))
            for id in ids
        }
        for masks, image in zip(result.frames(), result.images(), strict=True):
            for id, write in writers.items():
                write(cut_out(image, masks.ids == id))


def cut_out(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 4"]:
    """RGBA with the mask as straight alpha; colours end some pixels beyond the mask."""
    side = 2 * _MARGIN + 1
    near = cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8))
    return np.dstack([image * near[..., None], mask * np.uint8(255)])

"""An animated picture of a result, small enough for a web page."""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path

from oclr_jax.export.result import Result
from oclr_jax.show.overlay import paint_ids
from oclr_jax.video.resize import resize_ids, resize_image
from oclr_jax.video.writer import gif_writer

# Larger pictures are reduced to this width, and faster videos thinned to this rate.
_WIDTH = 480
_RATE = Fraction(25, 2)


def write_gif(path: Path, results: Sequence[Result]) -> None:
    """Writes an animated GIF: the masks painted over the frames, pixels square."""
    (result,) = results
    width = round(result.width * result.pixel_aspect)
    size = result.height, width
    if width > _WIDTH:
        size = max(1, round(result.height * _WIDTH / width)), _WIDTH
    step = max(1, ceil(result.fps / _RATE))
    times = result.times or [index / result.fps for index in range(len(result.stems))]
    with gif_writer(path, result.fps / step, *size, times=times[::step]) as write:
        for masks, image in zip(result.frames(), result.images(), strict=True):
            if masks.frame % step == 0:
                write(paint_ids(resize_image(image, *size), resize_ids(masks.ids, *size)))

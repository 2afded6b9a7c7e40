"""Video out: H.264 files that play in browsers."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8

from oclr_jax.errors import UserError
from oclr_jax.files import replacing

# Constant quality. Slower presets turn on x264's macroblock tree, whose bytes differ now and then
# from run to run; the number of threads changes the bytes too, so it is fixed.
_X264 = {"preset": "superfast", "crf": "22", "threads": "1"}


# Ticks a second of a file whose frame rate varies: those of MPEG, which even rates divide.
_TICKS = 90000


@contextmanager
def video_writer(
    path: str | os.PathLike,
    fps: Fraction | float | int,
    height: int,
    width: int,
    times: Sequence[Fraction] | None = None,
    pixel_aspect: Fraction = Fraction(1),
) -> Iterator[Callable[[UInt8[np.ndarray, "h w 3"]], None]]:
    """Opens an mp4 file and gives the function that appends one RGB frame of height x width.

    The file appears when the block ends, and not at all where the block raises. The same frames
    give the same bytes. H.264 with halved chroma needs even sides: an odd side grows by repeating
    its last row or column.

    Args:
      path: of the file; missing folders are made.
      fps: frames per second, the mean where the rate varies.
      height, width: of the frames, in pixels.
      times: seconds from the first frame at which each frame is shown, strictly increasing; None
        for a constant rate.
      pixel_aspect: width / height of a pixel.

    Raises UserError where the file cannot be written, ValueError for a frame of another size, for
    more frames than `times`, and for a video without frames.
    """
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    rate = Fraction(fps).limit_denominator(65535)
    stamps = None if times is None or _is_even(times, rate) else _stamps(times)
    with replacing(path) as temporary:
        try:
            with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
                # Frames out of order would make the header's duration end before the last of them.
                options = _X264 if stamps is None else {**_X264, "bf": "0"}
                stream = container.add_stream("libx264", rate=rate, options=options)
                stream.height, stream.width = height + height % 2, width + width % 2
                stream.pix_fmt = "yuv420p"
                stream.codec_context.colorspace = Colorspace.ITU601
                stream.codec_context.color_range = ColorRange.MPEG
                if pixel_aspect != 1:
                    stream.codec_context.sample_aspect_ratio = pixel_aspect
                if stamps is not None:
                    stream.codec_context.time_base = Fraction(1, _TICKS)
                written = 0

                def write(frame: UInt8[np.ndarray, "h w 3"]) -> None:
                    nonlocal written
                    if frame.shape != (height, width, 3):
                        raise ValueError(f"expected {(height, width, 3)}, got {frame.shape}")
                    if times is not None and written == len(times):
                        raise ValueError(f"there are times for {len(times)} frames only")
                    planes = cv2.cvtColor(np.pad(frame, odd, "edge"), cv2.COLOR_RGB2YUV_I420)
                    picture = av.VideoFrame.from_ndarray(planes, "yuv420p")
                    if stamps is not None:
                        picture.pts, picture.time_base = stamps[written], Fraction(1, _TICKS)
                    written += 1
                    container.mux(stream.encode(picture))

                yield write
                if not stream.codec_context.is_open:
                    raise ValueError("a video needs at least one frame")
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise  # `replacing` names the file
            raise UserError(f"Cannot encode the video {path}: {error.strerror}.") from error


def _is_even(times: Sequence[Fraction], rate: Fraction) -> bool:
    return all(time == index / rate for index, time in enumerate(times))


def _stamps(times: Sequence[Fraction]) -> list[int]:
    """Strictly increasing time stamps in ticks."""
    stamps: list[int] = []
    for time in times:
        stamp = round(time * _TICKS)
        stamps.append(max(stamp, stamps[-1] + 1) if stamps else stamp)
    return stamps

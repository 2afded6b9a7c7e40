"""Video out: H.264 files that play in browsers."""

import os
from collections.abc import Callable, Iterator
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


@contextmanager
def video_writer(
    path: str | os.PathLike, fps: Fraction | float | int, height: int, width: int
) -> Iterator[Callable[[UInt8[np.ndarray, "h w 3"]], None]]:
    """Opens an mp4 file and gives the function that appends one RGB frame of height x width.

    The file appears when the block ends, and not at all where the block raises. The same frames
    give the same bytes. H.264 with halved chroma needs even sides: an odd side grows by repeating
    its last row or column. Raises UserError where the file cannot be written, ValueError for a
    frame of another size and for a video without frames.
    """
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    with replacing(path) as temporary:
        try:
            with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
                rate = Fraction(fps).limit_denominator(65535)
                stream = container.add_stream("libx264", rate=rate, options=_X264)
                stream.height, stream.width = height + height % 2, width + width % 2
                stream.pix_fmt = "yuv420p"
                stream.codec_context.colorspace = Colorspace.ITU601
                stream.codec_context.color_range = ColorRange.MPEG

                def write(frame: UInt8[np.ndarray, "h w 3"]) -> None:
                    if frame.shape != (height, width, 3):
                        raise ValueError(f"expected {(height, width, 3)}, got {frame.shape}")
                    planes = cv2.cvtColor(np.pad(frame, odd, "edge"), cv2.COLOR_RGB2YUV_I420)
                    picture = av.VideoFrame.from_ndarray(planes, "yuv420p")
                    container.mux(stream.encode(picture))

                yield write
                if not stream.codec_context.is_open:
                    raise ValueError("a video needs at least one frame")
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            if isinstance(error, OSError):
                raise  # `replacing` names the file
            raise UserError(f"Cannot encode the video {path}: {error.strerror}.") from error

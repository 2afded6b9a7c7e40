"""Video out: H.264 files that play in browsers, ProRes 4444 with alpha, and animated GIF."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import UInt8
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.files import replacing

Write = Callable[[np.ndarray], None]


@dataclass(frozen=True)
class _Coding:
    """How the frames of a file are coded."""

    codec: str
    pixels: str  # FFmpeg's pixel format
    channels: int
    picture: Callable[[np.ndarray], av.VideoFrame]
    options: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, str] = field(default_factory=dict)
    ticks: int = 90000  # a second, where the frame rate varies; those of MPEG divide even rates
    # Frames out of order would make the header's duration end before the last of them.
    uneven: Mapping[str, str] = field(default_factory=dict)
    always_stamped: bool = False
    even_sides: bool = False


def _h264_picture(frame: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420), "yuv420p")


def _alpha_picture(frame: UInt8[np.ndarray, "h w 4"]) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgba")
    return picture.reformat(
        format="yuva444p10le", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
    )


def _gif_picture(frame: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
    # A palette for each frame, so that no pass over the whole video is needed.
    image = Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[: len(colours), 1:] = colours  # alpha, red, green, blue
    palette[:, 0] = 255
    return av.VideoFrame.from_ndarray((np.asarray(image), palette), "pal8")


_H264 = _Coding(
    "libx264",
    "yuv420p",
    3,
    _h264_picture,
    # Constant quality. Slower presets turn on x264's macroblock tree, whose bytes differ now and
    # then from run to run; the number of threads changes the bytes too, so it is fixed.
    options={"preset": "superfast", "crf": "22", "threads": "1"},
    container={"movflags": "+faststart"},
    uneven={"bf": "0"},
    even_sides=True,
)
_ALPHA = _Coding(
    "prores_ks",
    "yuva444p10le",
    4,
    _alpha_picture,
    options={"profile": "4444", "alpha_bits": "8", "vendor": "apl0", "threads": "1"},
    container={"movflags": "+faststart"},
)
_GIF = _Coding("gif", "pal8", 3, _gif_picture, ticks=100, always_stamped=True)


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
    with _writer(path, _H264, fps, (height, width), times, pixel_aspect) as write:
        yield write


@contextmanager
def alpha_writer(
    path: str | os.PathLike,
    fps: Fraction | float | int,
    height: int,
    width: int,
    times: Sequence[Fraction] | None = None,
    pixel_aspect: Fraction = Fraction(1),
) -> Iterator[Callable[[UInt8[np.ndarray, "h w 4"]], None]]:
    """As `video_writer`, for a mov file in ProRes 4444 of RGBA frames; alpha is straight.

    Alpha is coded without loss. Frames of any size are kept as they are.
    """
    with _writer(path, _ALPHA, fps, (height, width), times, pixel_aspect) as write:
        yield write


@contextmanager
def gif_writer(
    path: str | os.PathLike,
    fps: Fraction | float | int,
    height: int,
    width: int,
    times: Sequence[Fraction] | None = None,
) -> Iterator[Callable[[UInt8[np.ndarray, "h w 3"]], None]]:
    """As `video_writer`, for an animated GIF, which repeats for ever and counts time in 10 ms."""
    with _writer(path, _GIF, fps, (height, width), times, Fraction(1)) as write:
        yield write


@contextmanager
def _writer(
    path: str | os.PathLike,
    coding: _Coding,
    fps: Fraction | float | int,
    size: tuple[int, int],
    times: Sequence[Fraction] | None,
    pixel_aspect: Fraction,
) -> Iterator[Write]:
    rate = Fraction(fps).limit_denominator(65535)
    even = times is None or _is_even(times, rate)
    stamped = not even or coding.always_stamped
    tick = Fraction(1, coding.ticks)
    with replacing(path) as temporary:
        try:
            with av.open(str(temporary), "w", options=dict(coding.container)) as container:
                options = {**coding.options, **({} if even else coding.uneven)}
                stream = container.add_stream(coding.codec, rate=rate, options=options)
                stream.height, stream.width = (
                    side + side % 2 if coding.even_sides else side for side in size
                )
                stream.pix_fmt = coding.pixels
                if coding is not _GIF:
                    stream.codec_context.colorspace = Colorspace.ITU601
                    stream.codec_context.color_range = ColorRange.MPEG
                if pixel_aspect != 1:
                    stream.codec_context.sample_aspect_ratio = pixel_aspect
                if stamped:
                    stream.codec_context.time_base = tick
                written = last = 0

                def write(frame: np.ndarray) -> None:
                    nonlocal written, last
                    if frame.shape != (*size, coding.channels):
                        raise ValueError(f"expected {(*size, coding.channels)}, got {frame.shape}")
                    if times is not None and written == len(times):
                        raise ValueError(f"there are times for {len(times)} frames only")
                    if coding.even_sides:
                        frame = np.pad(frame, [(0, side % 2) for side in size] + [(0, 0)], "edge")
                    picture = coding.picture(frame)
                    if stamped:
                        time = written / rate if times is None else times[written]
                        stamp = round(time * coding.ticks)
                        last = max(stamp, last + 1) if written else stamp
                        picture.pts, picture.time_base = last, tick
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

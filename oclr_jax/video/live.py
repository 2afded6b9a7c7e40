"""Video that is read once, as it comes: from a pipe, a camera, or a file that grows."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import UInt8

from oclr_jax.errors import UserError
from oclr_jax.video.file import DEFAULT_FPS, frame_orientation
from oclr_jax.video.reader import MIN_FRAME_SIDE

STDIN = "-"


class LiveFrame(NamedTuple):
    """One frame of a live video."""

    time: float  # seconds from the first frame
    image: UInt8[np.ndarray, "h w 3"]  # RGB, upright, of the size of the first frame


def live_frames(
    source: str | os.PathLike, raw: tuple[int, int] | None = None
) -> Iterator[LiveFrame]:
    """Decodes a stream until it ends; no frame is held back.

    Packets that cannot be decoded are left out. A frame of another size than the first is scaled.

    Args:
      source: `-` for standard input; or a camera such as /dev/video0, a named pipe, or a file.
      raw: (width, height) of a stream that is nothing but RGB frames of 8 bits per channel; None
        for a stream of any container that FFmpeg recognises.

    Raises:
      UserError: it cannot be opened, has no video, or no frame.
    """
    with _opened(source, raw) as container:
        if not container.streams.video:
            raise UserError(f"{_named(source)} has no video stream.")
        stream = container.streams.video[0]
        # Threads that decode several frames at once would hold them back.
        stream.thread_type = "SLICE"
        rate = Fraction(stream.guessed_rate or stream.average_rate or DEFAULT_FPS)
        size = first = None
        for number, frame in enumerate(_decoded(container, stream)):
            if size is None:
                size, turn = (frame.height, frame.width), frame_orientation(frame)
                if min(size) < MIN_FRAME_SIDE:
                    raise UserError(
                        f"The frames of {_named(source)} are {size[1]}x{size[0]} pixels; each side "
                        f"needs at least {MIN_FRAME_SIDE}."
                    )
                first = frame.time
            time = number / rate if None in (first, frame.time) else frame.time - first
            image = frame.to_ndarray(format="rgb24", height=size[0], width=size[1])
            yield LiveFrame(float(time), turn.apply(image))
        if size is None:
            raise UserError(f"{_named(source)} ended before the first frame.")


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    # A stream that breaks off ends there.
    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            yield from frames


def _opened(source: str | os.PathLike, raw: tuple[int, int] | None) -> av.container.InputContainer:
    path, options, format = os.fspath(source), {}, None
    if raw is not None:
        format = "rawvideo"
        options = {"video_size": f"{raw[0]}x{raw[1]}", "pixel_format": "rgb24"}
    try:
        if path == STDIN:
            return av.open("pipe:0", format=format, options=options)
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{path} is a folder; leave out --online, or give a stream.")
        if stat.S_ISCHR(mode):
            return av.open(path, format="v4l2")
        return av.open(f"file:{path}", format=format, options=options)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; check the path.") from error
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{_named(source)} cannot be read as a video ({reason}); an mp4 file in a pipe must be "
            "fragmented, and raw frames need --raw."
        ) from error


def _named(source: str | os.PathLike) -> str:
    path = os.fspath(source)
    return "Standard input" if path == STDIN else path

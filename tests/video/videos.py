"""Small video files of every kind, made with PyAV, and pictures that show how they were turned."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from oclr_jax.video.writer import video_writer


def quadrants(height: int = 32, width: int = 48) -> np.ndarray:
    """Red, green / blue, black: every turn and mirror image of it looks different."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2, 0] = 255
    frame[: height // 2, width // 2 :, 1] = 255
    frame[height // 2 :, : width // 2, 2] = 255
    return frame


def corners(frame: np.ndarray) -> list[str]:
    """The colours of the four corners, in reading order."""
    names = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (0, 0, 0): "-"}
    picked = [frame[y, x] for y in (6, -7) for x in (6, -7)]
    return [names[tuple(int(value > 127) * 255 for value in colour)] for colour in picked]


def numbered(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames of one grey level each, 20 apart."""
    return np.full((count, height, width, 3), 20 * np.arange(count)[:, None, None, None], np.uint8)


def numbers_of(frames) -> list[int]:
    """Which frames of `numbered` these are, in their order."""
    return [round(float(frame.mean()) / 20) for frame in frames]


def noise(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Frames that compress badly, so that damage to any byte shows."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, fps: Fraction = Fraction(25)) -> Path:
    """An mp4 file as this project writes them."""
    with video_writer(path, fps, *frames.shape[1:3]) as write:
        for frame in frames:
            write(frame)
    return path


def encode(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    rate: int | Fraction = 24,
    milliseconds: Sequence[int] | None = None,
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """A video file of any container and codec; `milliseconds` are the frames' time stamps."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            if milliseconds:
                picture.pts, picture.time_base = milliseconds[index], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def packet_places(path: Path) -> list[tuple[int, int]]:
    """The bytes of each packet of a file."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [(packet.pos, packet.pos + packet.size) for packet in packets]

"""Single frames of a video in any order, by their numbers."""

import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from oclr_jax.errors import UserError
from oclr_jax.video.file import VideoFile
from oclr_jax.video.folder import FrameFolder
from oclr_jax.video.images import read_image
from oclr_jax.video.reader import VideoSource

# A time in a record is rounded, and a stamp may be off by a tick from a constant rate.
_ROUNDING = Fraction(2, 10**6)


class FrameAccess:
    """The frames of a video by number; safe to use from several threads.

    In a video file the decoder seeks to the last key frame before a frame, or goes on where it is
    if that is nearer. This needs time stamps that name each frame; a file without them, or a
    damaged one, is decoded from its start.

    Example:
      >>> frames = FrameAccess(open_video("clip.mp4"), record["video"]["times"])
      >>> frames.read(100).shape
      (480, 854, 3)
    """

    def __init__(self, source: VideoSource, times: Sequence[float]):
        """Opens a video, given the time of each of its frames in seconds from the first."""
        self._source, self._count = source, len(times)
        self._stamps: list[int] = []  # of each frame, in ticks; empty where the file has none
        self._keys: list[int] = []  # numbers of the key frames
        self._lock = threading.Lock()
        self._next = 0  # number of the frame that the decoder gives next
        self._decoded: Iterator[av.VideoFrame] | None = None
        self._images: Iterator[np.ndarray] | None = None  # from the start
        if isinstance(source, VideoFile) and source.damage is None:
            self._index(source, times)

    def read(self, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a frame. Raises UserError where there is none or it is broken."""
        if not 0 <= frame < self._count:
            raise UserError(f"There is no frame {frame}; there are {self._count}, from 0 on.")
        if isinstance(self._source, FrameFolder):
            return read_image(self._source.files[frame])
        with self._lock:
            if self._stamps:
                image = self._seek(frame)
                if image is not None:
                    return image
                self._stamps = []  # the container does not seek to what its index promises
            return self._from_start(frame)

    def _index(self, source: VideoFile, times: Sequence[float]) -> None:
        stamps, keys = source.stamps()
        if len(stamps) != len(times) or None in stamps or len(set(stamps)) < len(stamps):
            return
        stamps.sort()
        tolerance = source.tick + _ROUNDING
        for stamp, time in zip(stamps, times, strict=True):
            if abs((stamp - stamps[0]) * source.tick - Fraction(time)) > tolerance:
                return
        numbers = {stamp: number for number, stamp in enumerate(stamps)}
        self._stamps, self._keys = stamps, sorted(numbers[key] for key in keys)

    def _seek(self, frame: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """The picture of a frame; None where the decoder does not come across it."""
        key = max((key for key in self._keys if key <= frame), default=0)
        if self._decoded is None or not key <= self._next <= frame:
            # The stamp of the key frame: that of another frame may lead to the key frame after it,
            # which is decoded earlier than it is shown.
            self._decoded = self._source.decode_from(self._stamps[key])
        for decoded in self._decoded:
            if decoded.pts is None or decoded.pts > self._stamps[frame]:
                return None
            if decoded.pts == self._stamps[frame]:
                self._next = frame + 1
                return self._source.image(decoded)
        return None

    def _from_start(self, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        if self._images is None or frame < self._next:
            self._images, self._next = iter(self._source), 0
        for image in self._images:
            self._next += 1
            if self._next > frame:
                return image
        raise UserError(f"{self._source.path} ends before frame {frame}; segment it again.")

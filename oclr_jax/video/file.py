"""Video files: one stream of a container, decoded frame by frame, damage found in all cases."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

import av
import numpy as np
from av.sidedata.sidedata import Type
from jaxtyping import UInt8

from oclr_jax.errors import UserError
from oclr_jax.video.containers import lacks_frames
from oclr_jax.video.images import IMAGE_SUFFIXES
from oclr_jax.video.orientation import Orientation, matrix_orientation

# A header without a frame rate; the rate of DAVIS.
DEFAULT_FPS = Fraction(24)
# Fixed, because what a decoder does after damage depends on the number of its threads.
_THREADS = 8
# Larger frames are taken for a damaged header: 16384 x 16384.
_MAX_PIXELS = 1 << 28
# Formats whose header announces a duration that a whole file reaches; others have estimates.
_ANNOUNCING = ("matroska", "mov", "avi", "flv")


@dataclass(frozen=True)
class Damage:
    """What of a file can be decoded without an error."""

    whole: frozenset[int]  # numbers of the usable packets, in the order of the file
    frames: int  # that the usable packets hold
    announced: int  # frames of the undamaged file
    at_least: bool  # whether these are possibly more

    @property
    def none(self) -> bool:
        """Whether the file is undamaged."""
        return self.frames == self.announced

    def __str__(self) -> str:
        return f"{self.frames} of {'at least ' * self.at_least}{self.announced} frames are whole"


class VideoFile:
    """A video file. Iterating decodes it from the start, one frame in memory at a time.

    Attributes:
      path: of the file.
      rate: frames per second that the header announces.
      tick: unit of the time stamps in seconds.
      height, width: of the upright frames, in pixels.
      pixel_aspect: width / height of one pixel of the upright frames.
      expected_frames: as the header announces, None where it does not.
      damage: None for an intact file; set with `keep_damaged` only.
      left_out: after a pass, what an undamaged file holds beside the frames, such as "3 frames
        without data".
    """

    def __init__(self, path: str | os.PathLike, keep_damaged: bool = False):
        """Opens a file. With `keep_damaged` the frames that damage has spoiled are left out.

        Raises UserError for a file without a video, without two frames, or damaged within those.
        """
        self.path = Path(path)
        self.damage: Damage | None = None
        self.left_out: list[str] = []
        self._single_count: int | None = None
        self._lacks_frames = lacks_frames(self.path)
        with self._opened() as (_, stream):
            self.rate = Fraction(stream.guessed_rate or stream.average_rate or DEFAULT_FPS)
            self.tick = Fraction(stream.time_base)
            self.expected_frames = stream.frames or None
            aspect = Fraction(stream.sample_aspect_ratio or 1)
        if keep_damaged:
            damage = self._inspect()
            self.damage = None if damage.none else damage
        first = list(islice(self._decode(), 2))
        if len(first) < 2:
            number = "no frames" if not first else "a single frame"
            raise UserError(f"{self.path} has {number}; motion needs at least two.")
        self._orientation = frame_orientation(first[0])
        self._decoded_size = (first[0].height, first[0].width)
        turned = self._orientation.transpose
        self.height, self.width = self._decoded_size[:: -1 if turned else 1]
        self.pixel_aspect = 1 / aspect if turned else aspect

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        return (image for _, image in self.timed_frames())

    def timed_frames(self) -> Iterator[tuple[Fraction | None, UInt8[np.ndarray, "h w 3"]]]:
        """Each frame's time stamp in seconds, None where the file has none, and the RGB frame.

        A stream may change its size midway; frames are then scaled to the size of the first.
        Raises UserError where the file is damaged.
        """
        for frame in self._decode():
            stamp = frame.pts if frame.pts is not None else frame.dts
            yield None if stamp is None else stamp * self.tick, self.image(frame)

    def image(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """The upright RGB picture of a decoded frame."""
        height, width = self._decoded_size
        image = frame.to_ndarray(format="rgb24", width=width, height=height)
        return self._orientation.apply(image)

    def stamps(self) -> tuple[list[int | None], list[int]]:
        """The time stamps of all frames in ticks, unsorted, and those of the key frames.

        Nothing is decoded, which is fast; whether the file is damaged is not known afterwards.
        """
        with self._opened() as (container, stream):
            # Packets are not kept: they hold the whole file.
            found = [
                (packet.pts, packet.is_keyframe)
                for packet in _Reading(container, stream).packets()
                if packet.size and not packet.is_discard
            ]
        return [stamp for stamp, _ in found], [stamp for stamp, key in found if key]

    def decode_from(self, stamp: int) -> Iterator[av.VideoFrame]:
        """Decodes from the last key frame at or before a time stamp, given in ticks.

        Raises UserError where the file cannot be decoded there.
        """
        with self._opened() as (container, stream):
            try:
                container.seek(stamp, stream=stream)
                for packet in _Reading(container, stream, _THREADS).packets():
                    yield from packet.decode()
            except av.FFmpegError as error:
                raise self._damaged() from error

    def stem(self, index: int) -> str:
        """The name, without suffix, of the files that belong to a frame."""
        return f"{index:05d}"

    @contextmanager
    def _opened(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        """The open container and its film; UserError where there is none."""
        try:
            # The prefix keeps a colon in a file's name from being read as a protocol.
            container = av.open(f"file:{self.path}", metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            raise self._no_video() from error
        with container:
            yield container, self._film(container)

    def _film(self, container: av.container.InputContainer) -> av.VideoStream:
        """The video stream that moves: no cover picture and no still in front of it."""
        videos = list(container.streams.video)
        still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        films = [stream for stream in videos if not stream.disposition & still]
        if not films:
            holds = "only a cover picture" if videos else "no video stream"
            raise UserError(f"{self.path} holds {holds}; give a file with a video in it.")
        known = [stream for stream in films if stream.codec_context is not None]
        if not known:
            raise UserError(f"The coding of {self.path} is unknown; convert it to H.264 first.")
        best = container.streams.best("video")
        return best if best in known else known[0]

    def _decode(self) -> Iterator[av.VideoFrame]:
        """The frames in the order of display. Any sign of damage is a UserError.

        With `damage`, only the whole frames.
        """
        if self.damage is not None:
            yield from self._decode_whole(self.damage.whole)
            return
        with self._opened() as (container, stream):
            codec = stream.codec_context.name
            reading, shown = _Reading(container, stream, _THREADS), 0
            try:
                for packet in reading.packets():
                    for frame in packet.decode():
                        if frame.is_corrupt:
                            raise self._damaged()
                        shown += 1
                        yield frame
                    if packet.is_corrupt:
                        raise self._damaged()
            except av.FFmpegError as error:
                raise self._damaged() from error
        # Several threads hide some errors, but then frames are missing. Some intact packets show
        # no frame either; whether these are such is known after a pass without threads.
        if self._missing(reading) or (
            shown != reading.count and shown != self._count_without_threads()
        ):
            raise self._damaged()
        numbers = {
            "pictures that cannot be shown": _not_shown(codec, reading.count, shown),
            "frames without data": reading.empty(),
            "frames that its edit list hides": reading.hidden(),
        }
        self.left_out = [f"{number} {what}" for what, number in numbers.items() if number]

    def _decode_whole(self, whole: frozenset[int]) -> Iterator[av.VideoFrame]:
        with self._opened() as (container, stream):
            for packet in _Reading(container, stream).packets():
                with suppress(av.FFmpegError):
                    yield from (frame for frame in packet.decode() if _number(frame) in whole)

    def _count_without_threads(self) -> int:
        if self._single_count is None:
            damage = self._inspect()
            self._single_count = damage.frames if damage.none else -1
        return self._single_count

    def _missing(self, reading: "_Reading") -> int:
        return reading.missing() or int(self._lacks_frames)

    def _inspect(self) -> Damage:
        """Decodes the whole file without threads, whose errors belong to one packet each."""
        keys, damaged, shown, stamps = set(), set(), [], []
        with self._opened() as (container, stream):
            reading = _Reading(container, stream)
            for packet in reading.packets():
                number = _number(packet)
                keys |= {number} if packet.is_keyframe else set()
                damaged |= {number} if packet.is_corrupt else set()
                stamps += [packet.dts] if number >= 0 else []
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    damaged.add(number)
                    continue
                shown += [_number(frame) for frame in frames]
                damaged |= {_number(frame) for frame in frames if frame.is_corrupt}
        missing = reading.missing()
        lost = damaged.difference(shown)
        announced = len(shown) + len(lost) + (missing or int(self._lacks_frames))
        # What follows a damaged packet, or a gap in a damaged file, is predicted from what is not
        # there, up to the next key frame.
        gaps = _gaps(stamps) if damaged or announced > len(shown) else set()
        whole, usable = set(), True
        for number in range(reading.read):
            usable = number not in damaged and (number in keys or (usable and number not in gaps))
            whole |= {number} if usable else set()
        return Damage(
            frozenset(whole),
            sum(number in whole for number in shown),
            announced,
            at_least=self._lacks_frames and not missing,
        )

    def _damaged(self) -> UserError:
        damage = self._inspect()
        if damage.announced == 0:
            return self._no_video()
        rest = " or segment the whole frames with --keep-damaged" if damage.frames > 1 else ""
        return UserError(f"The video {self.path} is damaged: {damage}; convert it again{rest}.")

    def _no_video(self) -> UserError:
        return UserError(
            f"Cannot read {self.path} as a video; give a video file or a folder of frames "
            f"({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})."
        )


class _Reading:
    """One pass over the packets of a stream, in the order of the file.

    Attributes:
      read: packets so far; without threads `_number` gives that of each packet and its frames.
      count: of these, the ones that should show a frame.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, threads: int = 1
    ):
        codec = stream.codec_context
        codec.options = {"max_pixels": str(_MAX_PIXELS)}
        codec.thread_type, codec.thread_count = "AUTO" if threads > 1 else "NONE", threads
        # Without threads packets and frames carry their number. With threads PyAV may deadlock on
        # it: a thread of the decoder that drops a number waits for Python, and Python for it.
        self._numbered = codec.copy_opaque = threads == 1
        self.read = self.count = 0
        self._broken = False  # the container cannot be read to its end
        self._container, self._stream = container, stream
        self._end = Fraction(0)  # of all streams, in seconds
        self._interval = 1 / Fraction(stream.average_rate or DEFAULT_FPS)
        self._announced_frames, self._announced_end = stream.frames, Fraction(0)
        self._index = _read_index(container, stream)
        if any(name in container.format.name for name in _ANNOUNCING):
            if stream.duration is not None:
                self._announced_end = stream.duration * stream.time_base
            else:
                self._announced_end = Fraction(container.duration or 0, av.time_base)

    def packets(self) -> Iterator[av.Packet]:
        """The packets of the stream; the last one is empty and flushes the decoder."""
        try:
            for packet in self._container.demux():
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None:
                    end = (stamp + (packet.duration or 0)) * packet.time_base
                    self._end = max(self._end, end)
                if packet.stream is not self._stream:
                    continue
                if packet.size or stamp is not None:
                    if self._numbered:
                        # A new object each time, by which PyAV finds it again.
                        packet.opaque = [self.read]
                    self.read += 1
                    self.count += not packet.is_discard
                yield packet
        except av.FFmpegError:
            self._broken = True
            flush = av.Packet()
            flush.stream = self._stream
            yield flush

    def missing(self) -> int:
        """After a pass: how many frames the file does not hold although its header says so."""
        at_least = int(self._broken)
        if not self.read:
            return at_least
        if self._index:
            return max(at_least, self._index.packets - self.read)
        lacking = self._announced_frames - self.read
        if self._announced_frames and lacking <= 0:
            return at_least
        interval = max(self._end / self.read, self._interval)
        rest = self._announced_end - self._end
        # A duration is inexact. Beside a number of frames it only tells frames that a recorder
        # dropped, which have a time and no data, from missing ones.
        if rest < (0.25 if self._announced_frames else 1.5) * interval:
            return at_least
        return max(lacking, round(rest / interval))

    def empty(self) -> int:
        """After a pass in which no frame was missing: how many frames have no data."""
        if self._index:
            return self._index.empty
        return max(self._announced_frames - self.read, 0)

    def hidden(self) -> int:
        """After a pass: how many frames of the file its edit list hides."""
        return self.read - self.count + (self._index.hidden if self._index else 0)


@dataclass(frozen=True)
class _Index:
    """What the sample table of an mp4 file announces."""

    packets: int  # to be read
    empty: int  # samples without data, for which no packet is read
    hidden: int  # samples for which no packet is read because of the edit list


def _read_index(container: av.container.InputContainer, stream: av.VideoStream) -> _Index | None:
    """The index of a newly opened file; None where the file has none for all of its frames."""
    if not stream.frames or "mov" not in container.format.name:
        return None
    sizes = [entry.size for entry in stream.index_entries]
    hidden = 0
    if len(sizes) < stream.frames:
        with av.open(container.name, options={"ignore_editlist": "1"}) as unedited:
            hidden = len(unedited.streams[stream.index].index_entries) - len(sizes)
    # An edit list may also repeat samples.
    packets = max(len(sizes), stream.frames - hidden) - sizes.count(0)
    return _Index(packets, sizes.count(0), hidden)


def _gaps(stamps: list[int | None]) -> set[int]:
    """The numbers of the packets before which others seem to be missing, by their time stamps."""
    known = [(number, stamp) for number, stamp in enumerate(stamps) if stamp is not None]
    steps = {number: stamp - before for (_, before), (number, stamp) in pairwise(known)}
    usual = median(steps.values()) if steps else 0
    return {number for number, step in steps.items() if step > 1.5 * usual}


def _not_shown(codec: str, pictures: int, shown: int) -> int:
    """How many coded pictures show no frame, as those that refer to frames before the file begins.

    VP8 has pictures that are never shown, and two fields make one frame.
    """
    if codec == "vp8" or abs(2 * shown - pictures) <= 1:
        return 0
    return max(pictures - shown, 0)


def _number(item: av.Packet | av.VideoFrame) -> int:
    """That of a packet in its stream; -1 for the empty one at the end."""
    return item.opaque[0] if item.opaque else -1


def frame_orientation(frame: av.VideoFrame) -> Orientation:
    """How a decoded frame is to be turned to stand upright."""
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return Orientation()
    return matrix_orientation(np.frombuffer(matrix, np.int32).reshape(3, 3))

"""A result as the exporters see it: its record, and its frames one by one."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from oclr_jax.errors import UserError
from oclr_jax.results import (
    RLE,
    FrameEntry,
    ObjectEntry,
    SegmentationRecord,
    decode_rle,
    find_video,
    mask_stems,
    read_record,
)
from oclr_jax.video.folder import FrameFolder
from oclr_jax.video.reader import open_video

Images = Callable[[], Iterator[UInt8[np.ndarray, "h w 3"]]]


class FrameMasks(NamedTuple):
    """The objects of one frame at the resolution of the video."""

    frame: int
    stem: str
    ids: UInt8[np.ndarray, "h w"]  # of the object that is visible, 0 for none


@dataclass(frozen=True)
class Result:
    """A segmented video.

    Attributes:
      record: the content of objects.json.
      stems: names of the frames' files, without suffix.
      images: gives the RGB frames of the video from the first on; None where there is no video.
    """

    record: SegmentationRecord
    stems: list[str]
    images: Images | None = None

    @property
    def name(self) -> str:
        return self.record["video"]["name"]

    @property
    def height(self) -> int:
        return self.record["video"]["height"]

    @property
    def width(self) -> int:
        return self.record["video"]["width"]

    @property
    def fps(self) -> Fraction:
        """Mean frames per second: a ratio such as 30000/1001."""
        return Fraction(self.record["video"]["fps"]).limit_denominator(1001)

    @property
    def times(self) -> list[Fraction] | None:
        """Of each frame, in seconds from the first; None where the rate is constant."""
        times, fps = self.record["video"]["times"], self.fps
        # The record has microseconds.
        if all(abs(time - index / fps) <= 2e-6 for index, time in enumerate(times)):
            return None
        return [Fraction(time).limit_denominator(1_000_000) for time in times]

    @property
    def pixel_aspect(self) -> Fraction:
        return Fraction(*self.record["video"]["pixel_aspect"])

    @property
    def order(self) -> list[int]:
        """Ids, front to back."""
        return [entry["id"] for entry in self._front_to_back()]

    def frames(self) -> Iterator[FrameMasks]:
        """Yields the masks of every frame, in order; one frame is in memory at a time.

        Raises UserError for a mask that is broken.
        """
        back_to_front = self._front_to_back()[::-1]
        entries = [iter(entry["frames"]) for entry in back_to_front]
        ahead: list[FrameEntry | None] = [next(found, None) for found in entries]
        for frame, stem in enumerate(self.stems):
            ids = np.zeros((self.height, self.width), np.uint8)
            for place, (entry, found) in enumerate(zip(back_to_front, ahead, strict=True)):
                if found is not None and found["frame"] == frame:
                    ids[self.decode(found["modal"])] = entry["id"]
                    ahead[place] = next(entries[place], None)
            yield FrameMasks(frame, stem, ids)

    def decode(self, rle: RLE) -> np.ndarray:
        """Decodes a mask of the record. Raises UserError for one that is broken."""
        try:
            return decode_rle(rle)
        except ValueError as error:
            raise UserError(f"The result of {self.name} has a broken mask: {error}.") from error

    def _front_to_back(self) -> list[ObjectEntry]:
        return sorted(self.record["objects"], key=lambda entry: entry["depth_rank"])


def open_result(
    folder: str | os.PathLike,
    video: str | os.PathLike | None = None,
    with_images: bool = False,
    keep_damaged: bool = False,
) -> Result:
    """Opens a folder that `oclr segment` wrote.

    Args:
      folder: with objects.json and masks.
      video: the video file or folder of frames that was segmented; None for the one that the record
        names.
      with_images: whether the video is needed.
      keep_damaged: as it was given to `oclr segment`.

    Raises:
      UserError: the folder has no whole result, or the video is not the one that was segmented.
    """
    record = read_record(folder)
    stems = mask_stems(folder, record)
    if not with_images:
        return Result(record, stems)
    path = find_video(folder, record, video)
    other = UserError(
        f"{path} is not the video that was segmented to {os.fspath(folder)}: size, number or names "
        "of the frames differ."
    )
    source = open_video(path, keep_damaged)
    if (source.height, source.width) != (record["video"]["height"], record["video"]["width"]):
        raise other
    if isinstance(source, FrameFolder) and source.stems() != stems:
        raise other

    def images() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        number = 0
        for number, image in enumerate(source, start=1):
            if number > len(stems):
                break
            yield image
        if number != len(stems):
            raise other

    return Result(record, stems, images)

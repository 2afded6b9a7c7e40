"""A folder of results as it was written: record, file names, masks of one frame, video."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from oclr_jax.errors import UserError
from oclr_jax.results import find_video, mask_stems, read_record
from oclr_jax.video.file import VideoFile
from oclr_jax.video.png import read_ids
from oclr_jax.video.reader import VideoSource, open_video


class Result:
    """A folder that `oclr segment` or `oclr propagate` wrote.

    Attributes:
      folder: its path.
      record: the content of objects.json; of an object in a frame only score and area, for the
        masks are in the PNG files.
      stems: names, without suffix, of each frame's files.
      size: (height, width) of the masks.
    """

    def __init__(self, folder: str | os.PathLike):
        """Raises UserError for a folder that holds no whole results."""
        self.folder = Path(folder)
        self.record = read_record(folder)
        video = self.record["video"]
        self.size = (video["height"], video["width"])
        self.stems = mask_stems(folder, self.record)
        for entry in self.record["objects"]:
            entry["frames"] = [
                {name: found[name] for name in ("frame", "score", "area")}
                for found in entry["frames"]
            ]

    def ids(self, frame: int) -> UInt8[np.ndarray, "h w"]:
        """The ids that are visible in a frame."""
        return self._read(self.folder / "masks" / f"{self.stems[frame]}.png")

    def masks(
        self, frame: int
    ) -> tuple[UInt8[np.ndarray, "h w"], dict[int, Bool[np.ndarray, "h w"]]]:
        """The ids that are visible in a frame, and the amodal masks that it has, by id."""
        amodal = {}
        for entry in self.record["objects"]:
            name = f"{self.stems[frame]}.png"
            path = self.folder / "amodal" / str(entry["id"]) / name
            if path.is_file():
                amodal[entry["id"]] = self._read(path) > 0
        return self.ids(frame), amodal

    def open_video(self, video: str | os.PathLike | None = None) -> VideoSource:
        """Opens the video of the results; `video` says where, if it was moved.

        Raises:
          UserError: it is missing, cannot be read, or is another one.
        """
        path = find_video(self.folder, self.record, video)
        source, frames = open_video(path), self.record["video"]["frames"]
        if isinstance(source, VideoFile) and source.expected_frames not in (None, frames):
            # Perhaps damaged, and segmented with --keep-damaged: the same frames again.
            source = open_video(path, keep_damaged=True)
        if (source.height, source.width) != self.size:
            raise UserError(
                f"{path} has {source.width}x{source.height} pixels and the results "
                f"{self.size[1]}x{self.size[0]}; give the video that was segmented."
            )
        return source

    def frames(self, source: VideoSource) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The frames of the video; UserError where they are not as many as the masks."""
        number = 0
        for number, image in enumerate(source, start=1):
            if number <= len(self.stems):
                yield image
        if number != len(self.stems):
            raise UserError(
                f"{source.path} has {number} frames and the results {len(self.stems)}; give the "
                "video that was segmented."
            )

    def _read(self, path: Path) -> UInt8[np.ndarray, "h w"]:
        mask = read_ids(path)
        if mask.shape != self.size:
            raise UserError(
                f"The mask {path} is {mask.shape[1]}x{mask.shape[0]} and objects.json says "
                f"{self.size[1]}x{self.size[0]}; segment the video again."
            )
        return mask

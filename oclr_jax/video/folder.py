"""Folders of images as videos."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from oclr_jax.errors import UserError
from oclr_jax.video.images import IMAGE_SUFFIXES, image_size, read_image
from oclr_jax.video.names import natural_sorted, without_junk

# A folder of images has no frame rate of its own; this is that of DAVIS.
FOLDER_FPS = Fraction(24)


class FrameFolder:
    """A folder of jpg, png, tif or bmp frames, in the natural order of their names (2 before 10).

    Attributes as `VideoFile`, and `files`, the frames' paths in their order. How pixels are read:
    `images.decode_image`.
    """

    def __init__(self, path: str | os.PathLike):
        """Raises UserError for a folder without two images, or with images of several sizes."""
        self.path = Path(path)
        self.rate = FOLDER_FPS
        self.tick = Fraction(0)
        self.pixel_aspect = Fraction(1)
        self.damage = None
        self.left_out: list[str] = []
        self.files = natural_sorted(_image_files(self.path))
        self.expected_frames = len(self.files)
        if len(self.files) < 2:
            raise UserError(f"{self.path} has a single frame; motion needs at least two.")
        self.height, self.width = image_size(self.files[0])
        for file in self.files:
            self._check_size(file, *image_size(file))

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for file in self.files:
            image = read_image(file)
            self._check_size(file, *image.shape[:2])
            yield image

    def timed_frames(self) -> Iterator[tuple[None, UInt8[np.ndarray, "h w 3"]]]:
        """Each frame, without a time stamp; see `VideoFile.timed_frames`."""
        return ((None, image) for image in self)

    def stem(self, index: int) -> str:
        """The name, without suffix, of a frame."""
        return self.files[index].stem

    def stems(self) -> list[str]:
        """The names of all frames, in order."""
        return [file.stem for file in self.files]

    def _check_size(self, file: Path, height: int, width: int) -> None:
        if (height, width) != (self.height, self.width):
            raise UserError(
                f"The images in {self.path} differ in size: {self.files[0].name} is "
                f"{self.width}x{self.height} and {file.name} is {width}x{height}; bring them "
                "to one size."
            )


def _image_files(folder: Path) -> list[Path]:
    files = [
        file
        for file in without_junk(folder.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir()
    ]
    if not files:
        raise UserError(f"The folder {folder} holds no images; give a folder of jpg or png frames.")
    stems: dict[str, Path] = {}
    for file in files:
        if file.name != file.name.encode(errors="replace").decode():
            raise UserError(f"The name {str(file)!r} is not valid UTF-8; rename the frame.")
        other = stems.setdefault(file.stem, file)
        if other is not file:
            raise UserError(
                f"{folder} holds two frames of one name, {other.name} and {file.name}; keep one."
            )
    return files

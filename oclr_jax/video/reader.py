"""Frames in: video files and folders of images, as a stream of RGB frames."""

import os
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from oclr_jax.errors import UserError
from oclr_jax.files import check_input

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# A folder of images has no frame rate of its own; this is that of DAVIS.
FOLDER_FPS = Fraction(24)
# Under this many rows or columns nothing is left at the model's coarsest scale.
MIN_SIDE = 16


class VideoFile:
    """A video file. Iterating decodes it from the start, one frame in memory at a time.

    Attributes: `path`; `fps`, frames per second (the mean, where the rate varies); `height` and
    `width` of the frames, the file's rotation applied.
    """

    def __init__(self, path: str | os.PathLike):
        """Raises UserError for a file that is no video, or one too short or too small."""
        self.path = Path(path)
        with self._open() as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            self.expected_frames = stream.frames or None
        self.fps = Fraction(rate) if rate else FOLDER_FPS
        first = list(islice(self, 2))
        _check_frame_count(len(first), self.path)
        self.height, self.width = first[0].shape[:2]
        _check_frame_size(self.height, self.width, self.path)
        self._count: int | None = None

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        size = None
        for frame in self._decode():
            # A stream may change its size midway; its frames here never do.
            size = size or (frame.width, frame.height)
            yield _to_rgb(frame, *size)

    def stem(self, index: int) -> str:
        """The name, without suffix, of the files that belong to a frame."""
        return f"{index:05d}"

    def stems(self) -> list[str]:
        """The names of all frames, in order; see `count_frames` for its cost."""
        return [self.stem(index) for index in range(self.count_frames())]

    def count_frames(self) -> int:
        """The exact number of frames. Decodes the file once: containers are often wrong."""
        if self._count is None:
            self._count = sum(1 for _ in self._decode())
        return self._count

    def _open(self) -> av.container.InputContainer:
        try:
            # The prefix keeps a colon in a file's name from being read as a protocol.
            container = av.open(f"file:{self.path}")
        except (av.FFmpegError, OSError) as error:
            raise self._no_video() from error
        if not container.streams.video:
            container.close()
            raise UserError(f"{self.path} holds no video stream; give a file with pictures in it.")
        return container

    def _decode(self) -> Iterator[av.VideoFrame]:
        with self._open() as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            count = 0
            try:
                for frame in container.decode(stream):
                    yield frame
                    count += 1
            except av.FFmpegError as error:
                if count == 0:
                    raise self._no_video() from error
                raise UserError(
                    f"The video {self.path} is damaged after frame {count}; cut it there or "
                    "convert it anew."
                ) from error

    def _no_video(self) -> UserError:
        return UserError(
            f"Cannot read {self.path} as a video; give a video file or a folder of jpg or png "
            "frames."
        )


class FrameFolder:
    """A folder of jpg and png frames, in the natural order of their names (2 before 10).

    Attributes as `VideoFile`. Grey images become RGB, 16-bit ones 8-bit, alpha is dropped, the
    camera's orientation mark is applied.
    """

    def __init__(self, path: str | os.PathLike, fps: Fraction = FOLDER_FPS):
        """Raises UserError for a folder without images, or with images that do not fit together."""
        self.path = Path(path)
        self.fps = fps
        self.files = _image_files(self.path)
        self.expected_frames = len(self.files)
        _check_frame_count(len(self.files), self.path)
        self.height, self.width = _image_size(self.files[0])
        _check_frame_size(self.height, self.width, self.path)
        for file in self.files:
            height, width = _image_size(file)
            if (height, width) != (self.height, self.width):
                raise UserError(
                    f"The images in {self.path} differ in size: {self.files[0].name} is "
                    f"{self.width}x{self.height} and {file.name} is {width}x{height}; bring them "
                    "to one size."
                )

    def __iter__(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        return map(read_image, self.files)

    def stem(self, index: int) -> str:
        """The name, without suffix, of a frame."""
        return self.files[index].stem

    def stems(self) -> list[str]:
        """The names of all frames, in order."""
        return [file.stem for file in self.files]

    def count_frames(self) -> int:
        """The number of frames."""
        return len(self.files)


VideoSource = VideoFile | FrameFolder


def open_video(path: str | os.PathLike) -> VideoSource:
    """Opens a video file or a folder of images; the source can be iterated any number of times.

    Raises UserError, here or while iterating, where the path is missing, is no video or has no
    images, has fewer than two frames or sides under 16 px, mixes sizes, or is damaged.
    """
    path = check_input(path)
    return FrameFolder(path) if path.is_dir() else VideoFile(path)


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a jpg or png of any depth as 8-bit RGB; UserError for a broken one."""
    path = Path(path)
    try:
        if path.suffix.lower() in (".jpg", ".jpeg"):
            return _read_jpeg(path)
        with Image.open(path) as image:
            if image.mode.startswith("I"):
                # 16-bit grey, which Pillow alone of all modes does not bring to 8 bits itself.
                image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, cv2.error) as error:
        raise _broken_image(path) from error


def _read_jpeg(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    # Three times as fast as Pillow. Bytes are read here because OpenCV opens no non-ASCII path
    # on every system.
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise _broken_image(path)
    return image


def _to_rgb(frame: av.VideoFrame, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
    image = frame.to_ndarray(format="rgb24", width=width, height=height)
    # The rotation is that of the display, counter-clockwise.
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _image_files(folder: Path) -> list[Path]:
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]
    if not files:
        raise UserError(f"The folder {folder} holds no jpg or png images; give a folder of frames.")
    stems: dict[str, Path] = {}
    for file in files:
        other = stems.setdefault(file.stem, file)
        if other is not file:
            raise UserError(
                f"{folder} holds two frames of one name, {other.name} and {file.name}; keep one."
            )
    return sorted(files, key=_natural_order)


def _natural_order(file: Path) -> tuple[list[int | str], str]:
    # Splitting by digits puts text at even and numbers at odd places, so that like meets like.
    parts = re.split(r"([0-9]+)", file.stem)
    return [int(part) if part.isdecimal() else part for part in parts], file.stem


def _image_size(file: Path) -> tuple[int, int]:
    """(height, width) of an image from its header, the orientation mark applied."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
    except (OSError, SyntaxError, ValueError) as error:
        raise _broken_image(file) from error
    return (width, height) if turned else (height, width)


def _broken_image(file: Path) -> UserError:
    return UserError(f"The image {file} is broken or no jpg or png; replace it or take it out.")


def _check_frame_count(count: int, path: Path) -> None:
    if count == 0:
        raise UserError(f"The video {path} has no frames; give one that plays.")
    if count == 1:
        raise UserError(f"{path} has a single frame; motion needs at least two.")


def _check_frame_size(height: int, width: int, path: Path) -> None:
    if min(height, width) < MIN_SIDE:
        raise UserError(
            f"The frames of {path} are {width}x{height} pixels; each side needs at least "
            f"{MIN_SIDE}."
        )

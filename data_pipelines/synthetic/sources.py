"""Sources of scenes: folders of images, silhouettes and videos, or procedural substitutes."""

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_pipelines.synthetic.shapes import Shape, blob, figure, from_mask
from data_pipelines.synthetic.textures import jitter_colours, texture
from oclr_jax.errors import UserError
from oclr_jax.video.folder import FrameFolder
from oclr_jax.video.images import IMAGE_SUFFIXES, read_image
from oclr_jax.video.names import is_junk
from oclr_jax.video.reader import open_video
from oclr_jax.video.resize import resize_image

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# Of a larger folder this many files are used, evenly spaced in sorted order: checking each takes
# milliseconds, and 4,608 sequences need no more.
MOST_FILES = 20_000
# Silhouettes whose bounding box has a shorter side (pixels) are specks or cut by the frame.
SMALLEST_SILHOUETTE = 24
# Largest index of the random first frame of a background video.
_LONGEST_START = 300
_VIDEO_ATTEMPTS = 10

_T = TypeVar("_T")


@dataclass(frozen=True)
class Folder:
    """A source on disk.

    path: the folder.
    files: names of the readable files, relative to it.
    broken: names of the unreadable files.
    digest: of all names and sizes; two folders with the same files have the same digest.
    """

    path: Path
    files: tuple[str, ...]
    broken: tuple[str, ...]
    digest: str

    def settings(self) -> dict[str, Any]:
        """The record of the folder in a dataset, without its path on this machine."""
        return {
            "name": self.path.resolve().name,
            "files": len(self.files),
            "broken": list(self.broken),
            "digest": self.digest,
            "licence": _licence(self.path),
        }


@dataclass(frozen=True)
class Sources:
    """Where textures, silhouettes and background videos come from; None means procedural.

    objects: for every file of `silhouettes`, the ids of objects that are large enough.
    procedural: share of the textures and shapes that stay procedural where folders are given, from
      0 to 1.
    """

    images: Folder | None = None
    silhouettes: Folder | None = None
    videos: Folder | None = None
    objects: tuple[tuple[int, ...], ...] = ()
    procedural: float = 0.0

    def settings(self) -> dict[str, Any]:
        """The record of the sources in a dataset."""
        named = {"images": self.images, "silhouettes": self.silhouettes, "videos": self.videos}
        folders = {name: folder and folder.settings() for name, folder in named.items()}
        return folders | ({"procedural": self.procedural} if self.procedural else {})

    def texture(
        self, rng: np.random.Generator, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Samples an image: a random crop of a file, flipped and colour-jittered, or procedural."""
        if self.images is None or self._stays_procedural(rng):
            return texture(rng, height, width)
        name = self.images.files[int(rng.integers(len(self.images.files)))]
        image = read_image(self.images.path / name)
        return jitter_colours(rng, random_crop(rng, image[None], height, width))[0]

    def silhouette(self, rng: np.random.Generator, size: int) -> Shape:
        """Samples a shape: a silhouette of a file, resized and rotated, or a figure or blob."""
        if self.silhouettes is None or self._stays_procedural(rng):
            return (blob if rng.random() < 0.2 else figure)(rng, size)
        index = int(rng.integers(len(self.silhouettes.files)))
        ids = _read_ids(self.silhouettes.path / self.silhouettes.files[index])
        return from_mask(rng, ids == rng.choice(self.objects[index]), size)

    def _stays_procedural(self, rng: np.random.Generator) -> bool:
        # Without a share no number is drawn: scenes of folders alone stay as they were.
        return self.procedural > 0 and rng.random() < self.procedural

    def footage(
        self, rng: np.random.Generator, frames: int, height: int, width: int
    ) -> UInt8[np.ndarray, "t h w 3"]:
        """Samples a background video (supplement B.1).

        It has a random start, direction and stride (1 to 3), and is cropped, flipped and
        colour-jittered at random. A video that is too short is played back and forth.
        """
        step = int(rng.integers(1, 4))
        clip = self._read_a_video(rng, (frames - 1) * step + 1)[::step]
        if rng.random() < 0.5:
            clip = clip[::-1]
        back_and_forth = [*range(len(clip)), *range(len(clip) - 2, 0, -1)] or [0]
        order = np.resize(back_and_forth, frames)
        shown = random_crop(rng, np.stack(clip), height, width)
        if rng.random() < 0.1:
            shown = shown[:, ::-1]
        return np.ascontiguousarray(jitter_colours(rng, shown)[order])

    def _read_a_video(
        self, rng: np.random.Generator, wanted: int
    ) -> list[UInt8[np.ndarray, "h w 3"]]:
        # A file that can be opened may still be damaged further on; then another is read.
        for _ in range(_VIDEO_ATTEMPTS):
            name = self.videos.files[int(rng.integers(len(self.videos.files)))]
            try:
                return _read_frames(rng, self.videos.path / name, wanted)
            except UserError:
                continue
        raise UserError(
            f"{_VIDEO_ATTEMPTS} background videos in a row could not be read (the last is "
            f"{self.videos.path / name}); remove the damaged files."
        )


PROCEDURAL = Sources()


def open_sources(
    images: str | os.PathLike | None = None,
    silhouettes: str | os.PathLike | None = None,
    videos: str | os.PathLike | None = None,
    procedural: float = 0.0,
) -> Sources:
    """Opens folders and checks their files; None means procedural.

    Args:
      images: jpg or png files at any depth.
      silhouettes: annotations in the layout of DAVIS or YouTube-VOS: a folder of indexed png files
        for each sequence, pixel value = object id, 0 and 255 = no object.
      videos: video files, or a folder of frames for each video.
      procedural: share of textures and shapes that stay procedural, from 0 to 1.

    Raises:
      UserError: the share is not from 0 to 1, or mixes procedural textures and shapes with no
        folder; a folder is missing or has no readable file of its kind. Unreadable files are
        skipped and listed in `broken`.
    """
    if not 0 <= procedural <= 1:
        raise UserError(f"The procedural share is {procedural}; choose one from 0 to 1.")
    if procedural and images is None and silhouettes is None:
        raise UserError(
            "A procedural share is mixed with images or silhouettes; name a folder of either, or "
            "leave the share out."
        )
    objects: tuple[tuple[int, ...], ...] = ()
    found: dict[str, Folder] = {}
    if images is not None:
        files = _find(Path(images), IMAGE_SUFFIXES)
        found["images"], _ = _open("images", Path(images), files, _image_opens)
    if silhouettes is not None:
        files = _find(Path(silhouettes), (".png",))
        folder, objects = _open("silhouettes", Path(silhouettes), files, _large_objects)
        # Files without an object are not broken.
        kept = [(name, ids) for name, ids in zip(folder.files, objects, strict=True) if ids]
        if not kept:
            raise UserError(
                f"No object in the silhouettes of {silhouettes} is at least {SMALLEST_SILHOUETTE} "
                "pixels wide and high; name a folder of indexed annotations."
            )
        names, objects = zip(*kept, strict=True)
        found["silhouettes"] = Folder(folder.path, names, folder.broken, folder.digest)
    if videos is not None:
        files = _find_videos(Path(videos))
        found["videos"], _ = _open("videos", Path(videos), files, _video_opens)
    return Sources(**found, objects=objects, procedural=procedural)


def random_crop(
    rng: np.random.Generator, images: UInt8[np.ndarray, "t h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "t H W 3"]:
    """A random crop, the same for all images, of at least half the size, flipped at random."""
    h, w = images.shape[1:3]
    share = rng.uniform(0.5, 1) * min(h / height, w / width)
    rows, columns = max(1, int(height * share)), max(1, int(width * share))
    top, left = int(rng.integers(h - rows + 1)), int(rng.integers(w - columns + 1))
    window = images[:, top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        window = window[:, :, ::-1]
    return np.stack([resize_image(np.ascontiguousarray(x), height, width) for x in window])


def _find(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"There is no source folder {folder}; check the path.")
    files = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    kept = (path for path in files if not any(map(is_junk, path.relative_to(folder).parts)))
    return sorted(path for path in kept if path.is_file())


def _find_videos(folder: Path) -> list[Path]:
    """Video files at any depth, and folders with images."""
    files = _find(folder, VIDEO_SUFFIXES)
    return sorted([*files, *{path.parent for path in _find(folder, IMAGE_SUFFIXES)}])


def _open(
    kind: str, folder: Path, paths: list[Path], inspect: Callable[[Path], _T]
) -> tuple[Folder, tuple[_T, ...]]:
    """Inspects every file; returns the readable ones and the results of `inspect`."""
    if not paths:
        raise UserError(f"The source folder {folder} has no {kind}; name one that has.")
    if len(paths) > MOST_FILES:
        chosen = np.linspace(0, len(paths) - 1, MOST_FILES).round().astype(int)
        paths = [paths[index] for index in chosen]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda path: _inspect(inspect, path), paths))
    names = [path.relative_to(folder).as_posix() for path in paths]
    good = [(name, value) for name, value in zip(names, results, strict=True) if value is not None]
    broken = tuple(name for name, value in zip(names, results, strict=True) if value is None)
    if not good:
        raise UserError(
            f"None of the {len(paths)} {kind} in {folder} can be read (the first is {names[0]}); "
            "name another folder."
        )
    used = [paths[index] for index, value in enumerate(results) if value is not None]
    files, values = zip(*good, strict=True)
    return Folder(folder, files, broken, _digest(files, used)), values


def _inspect(inspect: Callable[[Path], _T], path: Path) -> _T | None:
    """The result of `inspect`, None if the file cannot be read."""
    try:
        return inspect(path)
    except (UserError, OSError, SyntaxError, ValueError):
        return None


def _image_opens(path: Path) -> bool:
    with Image.open(path) as image:
        image.draft("RGB", (64, 64))  # decodes a JPEG at an eighth of its size
        image.load()
    return True


def _large_objects(path: Path) -> tuple[int, ...]:
    ids = _read_ids(path)
    large = []
    for number in np.unique(ids):
        if number not in (0, 255):
            _, _, width, height = cv2.boundingRect((ids == number).astype(np.uint8))
            if min(width, height) >= SMALLEST_SILHOUETTE:
                large.append(int(number))
    return tuple(large)


def _read_ids(path: Path) -> UInt8[np.ndarray, "h w"]:
    with Image.open(path) as image:
        # Masks of one object are often stored as grey 0 and 255, or in one bit.
        if image.mode in ("1", "L"):
            return (np.asarray(image.convert("L")) > 127).astype(np.uint8)
        if image.mode != "P":
            raise ValueError(f"{path} is not an indexed image")
        return np.asarray(image)


def _video_opens(path: Path) -> bool:
    next(iter(open_video(path)))
    return True


def _read_frames(
    rng: np.random.Generator, path: Path, wanted: int
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """At most `wanted` consecutive frames of a video, from a random one on."""
    video = open_video(path)
    count = video.expected_frames or wanted
    start = int(rng.integers(max(0, min(count - wanted, _LONGEST_START)) + 1))
    if isinstance(video, FrameFolder):
        return [read_image(file) for file in video.files[start : start + wanted]]
    frames = []
    for index, frame in enumerate(video):
        if index >= start:
            frames.append(frame)
        if len(frames) == wanted:
            break
    return frames


def _digest(names: Iterable[str], paths: Iterable[Path]) -> str:
    lines = (
        f"{name} {path.stat().st_size if path.is_file() else len(list(path.iterdir()))}\n"
        for name, path in zip(names, paths, strict=True)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _licence(folder: Path) -> str:
    """The first line of a file called LICENSE or LICENCE in the folder."""
    for path in sorted(folder.glob("LICEN[SC]E*")):
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[0].strip()
    return "not stated: the folder has no LICENSE file"

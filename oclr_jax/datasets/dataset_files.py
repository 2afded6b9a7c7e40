"""Finding and reading the files of a benchmark, in folders or zip files."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oclr_jax.datasets.benchmarks import VOID, Benchmark
from oclr_jax.errors import UserError
from oclr_jax.video.images import decode_image
from oclr_jax.video.names import natural_sorted, without_junk

AnyPath = Path | zipfile.Path  # a file or folder, on disk or inside a zip file


class DatasetRoot:
    """Finds the folders and files of a benchmark below its root folder or zip file."""

    def __init__(self, benchmark: Benchmark, root: Path):
        self.benchmark, self.root = benchmark, root

    def find(self, *paths: str) -> AnyPath:
        """The first of `paths` that exists in the root, a subfolder, or a zip file there.

        Raises UserError, with the expected and the found layout, if none exists.
        """
        for folder in self._folders():
            for path in paths:
                if (found := folder.joinpath(*path.split("/"))).exists():
                    return found
        inside = self.root.iterdir() if self.root.is_dir() else ()
        found = sorted(child.name for child in without_junk(inside))
        raise UserError(
            f"{self.root} does not have the layout of {self.benchmark.title}: expected "
            f"{'; '.join(self.benchmark.tree.splitlines())}; found "
            f"{', '.join(found[:8]) or 'nothing'}{', ...' if len(found) > 8 else ''}."
        )

    def _folders(self) -> Iterator[AnyPath]:
        if self.root.is_file():
            yield from _inside_zip(self.root)
            return
        yield self.root
        for child in sorted(without_junk(self.root.iterdir())):
            if child.is_dir():
                yield child
            elif child.suffix == ".zip":
                yield from _inside_zip(child)


def _inside_zip(path: Path) -> Iterator[AnyPath]:
    try:
        inside = zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is not a valid zip file; download it again or unpack it."
        ) from error
    yield inside
    yield from (child for child in without_junk(inside.iterdir()) if child.is_dir())


def list_files(folder: AnyPath, suffixes: tuple[str, ...]) -> list[AnyPath]:
    """Files with these suffixes, in natural order (2 before 10)."""
    files = without_junk(folder.iterdir())
    return natural_sorted(file for file in files if file.name.lower().endswith(suffixes))


def read_frame(path: AnyPath) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB. Raises UserError for a broken file."""
    return decode_image(path.read_bytes(), str(path))


def read_annotation(path: AnyPath, mode: str) -> np.ndarray:
    """Reads an image in a Pillow mode, such as L or RGB. Raises UserError for a broken file."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return np.array(image if mode == image.mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Cannot read the annotation {path}; replace the file.") from error


def read_id_annotation(
    path: AnyPath, colours: tuple[tuple[int, int, int], ...]
) -> UInt8[np.ndarray, "h w"]:
    """Ids of an indexed image, or by `colours` in a colour image, where other colours are VOID."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            if image.mode in ("P", "L"):
                return np.array(image)
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Cannot read the annotation {path}; replace the file.") from error
    ids = np.where(pixels.any(axis=-1), VOID, 0).astype(np.uint8)
    for id, colour in enumerate(colours, start=1):
        ids[(pixels == colour).all(axis=-1)] = id
    return ids

"""The benchmarks' own files, as their authors distribute them: folders or zip files."""

import ast
import csv
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from oclr_jax.datasets.benchmarks import (
    BENCHMARKS,
    DAVIS2017_MOTION_COLOURS,
    VOID,
    YTVOS2018_MOTION_COLOURS,
    Benchmark,
)
from oclr_jax.errors import UserError

Place = Path | zipfile.Path  # a file or folder, on the disk or inside a zip file

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
# FBMS: grey values, 0 to 1, above which a label of the ground truth is an object. Two sequences
# have labels of their own.
_FBMS_OBJECT = 0.1
_FBMS_OBJECT_IN = {"marple7": 0.05, "marple2": 0.4}
# YTVOS18-motion: a sequence with as many frames is split into parts of fewer.
_SPLIT_FROM = 100


@dataclass(frozen=True)
class Box:
    """An annotated box of MoCA."""

    corners: tuple[float, ...]  # left, top, right, bottom in pixels
    motion: int  # 0 locomotion, 1 deformation, 2 static


@dataclass(frozen=True)
class BenchmarkSequence:
    """One sequence of a benchmark; pictures are read when they are asked for."""

    name: str  # differs from `folder` where a sequence was split
    folder: str  # name of its folder in flow and results
    stems: list[str]  # name of each frame, without suffix
    frame: Callable[[int], UInt8[np.ndarray, "h w 3"]]  # RGB
    annotated: list[int]  # numbers of the frames with an annotation
    annotation: Callable[[int], UInt8[np.ndarray, "h w"]]  # ids, 0 background, VOID
    boxes: dict[int, Box] = field(default_factory=dict)  # by frame; MoCA alone has them
    start: int = 0  # of a part: number of its first frame in the whole sequence
    whole: tuple[str, ...] = ()  # of a part: the whole sequence's stems
    encoded: Callable[[int], bytes] | None = None  # a frame's file, JPEG, PNG or BMP
    # Flow kept with the dataset at its gap and its negative: (u, v, u, v) in pixels of its grid.
    flow: Callable[[], Float32[np.ndarray, "t h w 4"]] | None = None

    def frames(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The frames in order, RGB."""
        return map(self.frame, range(len(self.stems)))


def find_benchmark_sequences(
    benchmark: Benchmark, root: str | os.PathLike, split: str = "validation"
) -> list[BenchmarkSequence]:
    """The sequences of a split that are present in `root`, in the order of their list.

    `root` is the dataset's folder, one above it, or a zip file of it. Raises UserError, saying what
    was expected and what was found, where the tree is another or no sequence of the list is there.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"The dataset folder {root} does not exist; check the path.")
    wanted = benchmark.sequences(split)
    sequences = _READERS[benchmark.name](_Tree(benchmark, root), wanted, split)
    if not sequences:
        raise UserError(
            f"{root} holds none of the {len(wanted)} sequences of {benchmark.title} ({split}), "
            f"such as {wanted[0]}; put them there."
        )
    return sequences


class _Tree:
    """Where the parts of a benchmark lie."""

    def __init__(self, benchmark: Benchmark, root: Path):
        self.benchmark, self.root = benchmark, root

    def part(self, *paths: str) -> Place:
        """The first of `paths` that exists in the root, in a folder or in a zip file of it."""
        for place in self._places():
            for path in paths:
                if (found := place.joinpath(*path.split("/"))).exists():
                    return found
        found = sorted(child.name for child in self.root.iterdir()) if self.root.is_dir() else []
        raise UserError(
            f"{self.root} is not laid out as {self.benchmark.title} is: expected "
            f"{'; '.join(self.benchmark.tree.splitlines())}; found "
            f"{', '.join(found[:8]) or 'nothing'}{', ...' if len(found) > 8 else ''}."
        )

    def _places(self) -> Iterator[Place]:
        if self.root.is_file():
            yield from _inside_zip(self.root)
            return
        yield self.root
        for child in sorted(self.root.iterdir()):
            if child.is_dir():
                yield child
            elif child.suffix == ".zip":
                yield from _inside_zip(child)


def _inside_zip(path: Path) -> Iterator[Place]:
    try:
        inside = zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no whole zip file; download it again or unpack it.") from error
    yield inside
    yield from (child for child in inside.iterdir() if child.is_dir())


def _davis2016(tree: _Tree, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames, annotations = tree.part("JPEGImages/480p"), tree.part("Annotations/480p")

    def read(path: Place) -> UInt8[np.ndarray, "h w"]:
        return (_read_picture(path, "L") > 0).astype(np.uint8)

    return [_by_stem(name, frames, annotations, read) for name in _present(names, frames)]


def _davis2017_motion(tree: _Tree, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames, annotations = tree.part("JPEGImages/480p"), tree.part("Annotations_motion/480p")

    def read(path: Place) -> UInt8[np.ndarray, "h w"]:
        return _read_ids(path, DAVIS2017_MOTION_COLOURS)

    return [_by_stem(name, frames, annotations, read) for name in _present(names, frames)]


def _ytvos2018_motion(tree: _Tree, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames, annotations = tree.part("JPEGImages"), tree.part("Annotations_motion")

    def read(path: Place) -> UInt8[np.ndarray, "h w"]:
        return _read_ids(path, YTVOS2018_MOTION_COLOURS)

    return [
        part
        for name in _present(names, frames)
        for part in split_long(_by_stem(name, frames, annotations, read))
    ]


def split_long(sequence: BenchmarkSequence) -> list[BenchmarkSequence]:
    """A sequence of 100 frames or more in equal parts of fewer, the last takes the rest.

    The parts are called `<name>_part1`, ...; those without an annotation are left out. The rule of
    the second paper's program for YTVOS18-motion.
    """
    count = len(sequence.stems)
    parts = count // _SPLIT_FROM + 1
    if parts == 1:
        return [sequence]
    starts = [part * (count // parts) for part in range(parts)] + [count]
    found = []
    for number, (start, end) in enumerate(zip(starts, starts[1:], strict=False), start=1):
        annotated = [frame - start for frame in sequence.annotated if start <= frame < end]
        if annotated:
            found.append(
                BenchmarkSequence(
                    name=f"{sequence.name}_part{number}",
                    folder=sequence.folder,
                    stems=sequence.stems[start:end],
                    frame=lambda index, start=start: sequence.frame(start + index),
                    annotated=annotated,
                    annotation=lambda index, start=start: sequence.annotation(start + index),
                    start=start,
                    whole=tuple(sequence.stems),
                    encoded=lambda index, start=start: sequence.encoded(start + index),
                )
            )
    return found


def _segtrack_v2(tree: _Tree, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames, truth = tree.part("JPEGImages"), tree.part("GroundTruth")
    found = []
    for name in _present(names, frames):
        pictures, folder = _files(frames / name, _IMAGES), truth / name
        if not folder.is_dir():
            raise _no_annotations(name, folder)
        # Sequences with several objects have one folder for each; all of them are foreground.
        folders = [child for child in folder.iterdir() if child.is_dir()] or [folder]
        objects = [_files(one, _IMAGES) for one in sorted(folders, key=lambda one: one.name)]
        for one, files in zip(folders, objects, strict=True):
            if len(files) != len(pictures):
                raise UserError(
                    f"{one} holds {len(files)} annotations for {len(pictures)} frames of {name}; "
                    "there must be one for each."
                )

        def read(frame: int, objects=objects) -> UInt8[np.ndarray, "h w"]:
            masks = [_read_picture(files[frame], "L") > 127 for files in objects]
            return np.any(masks, axis=0).astype(np.uint8)

        found.append(_sequence(name, pictures, list(range(len(pictures))), read))
    return found


def _fbms59(tree: _Tree, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    root = tree.part("Testset" if split == "validation" else "Trainingset")
    found = []
    for name in _present(names, root):
        pictures, folder = _files(root / name, _IMAGES), root / name / "GroundTruth"
        files = _fbms_annotations(name, pictures, folder)

        def read(frame: int, name=name, files=files) -> UInt8[np.ndarray, "h w"]:
            grey = _read_picture(files[frame], "RGB")
            grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY) / 255.0
            if files[frame].name.endswith(".ppm"):
                grey[grey > 0.99] = 0  # there white is the background
            return (grey > _FBMS_OBJECT_IN.get(name, _FBMS_OBJECT)).astype(np.uint8)

        found.append(_sequence(name, pictures, sorted(files), read))
    return found


def _fbms_annotations(name: str, pictures: list[Place], folder: Place) -> dict[int, Place]:
    """The sparse ground truth of an FBMS sequence by frame: colour files where there are some."""
    if not folder.is_dir():
        raise _no_annotations(name, folder)
    files = [file for file in _files(folder, (".ppm",)) if "PROB" not in file.name]
    files = files or _files(folder, (".pgm",))
    numbers = [_number_after(name, file.name) for file in files]
    own = {_number_after(name, picture.name): frame for frame, picture in enumerate(pictures)}
    if not files or None in numbers:
        raise _no_annotations(name, folder)
    if set(numbers) <= own.keys():
        return {own[number]: file for number, file in zip(numbers, files, strict=True)}
    if min(numbers) < 1 or max(numbers) > len(pictures):
        raise UserError(
            f"{folder} has ground truth for frame {max(numbers)} and {name} has {len(pictures)} "
            "frames; download the sequence again."
        )
    return {number - 1: file for number, file in zip(numbers, files, strict=True)}


def _number_after(sequence: str, file: str) -> int | None:
    """The frame's number in a file name, which may begin with the sequence's name."""
    digits = re.search(r"\d+", file.removeprefix(sequence))
    return int(digits.group()) if digits else None


def _moca_filter(tree: _Tree, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames = tree.part("JPEGImages")
    boxes = read_moca_boxes(tree.part("annotations.csv", "Annotations/annotations.csv"))
    found = []
    for name in _present(names, frames):
        pictures = _files(frames / name, _IMAGES)
        of_frame = {
            frame: boxes[name][picture.stem]
            for frame, picture in enumerate(pictures)
            if picture.stem in boxes.get(name, {})
        }
        if not of_frame:
            raise UserError(
                f"annotations.csv has no box for the frames of {name}; take the file that belongs "
                "to these frames."
            )

        def read(frame: int, pictures=pictures, of_frame=of_frame) -> UInt8[np.ndarray, "h w"]:
            height, width = _read_frame(pictures[frame]).shape[:2]
            mask = np.zeros((height, width), np.uint8)
            left, top, right, bottom = (round(side) for side in of_frame[frame].corners)
            mask[top:bottom, left:right] = 1
            return mask

        found.append(_sequence(name, pictures, sorted(of_frame), read, of_frame))
    return found


def read_moca_boxes(path: Place) -> dict[str, dict[str, Box]]:
    """The boxes of a MoCA annotation file by sequence and name of the frame.

    Rows are `number, /<sequence>/<frame>.jpg, "[2, x, y, width, height]", {'1': 'motion'}`; an
    empty motion `{}` is that of the row before, rows without a box are left out. A box that begins
    left of or above the picture is moved inside, as the MoCA evaluator does.
    """
    boxes: dict[str, dict[str, Box]] = {}
    motion = 0
    try:
        text = path.read_bytes().decode("utf-8")
        rows = [row for row in csv.reader(io.StringIO(text)) if len(row) == 4 and "/" in row[1]]
        for _, file, box, mark in sorted(rows, key=lambda row: row[1]):
            if box == "[]":
                continue
            marks = ast.literal_eval(mark)
            motion = int(marks["1"]) if marks else motion
            _, x, y, width, height = ast.literal_eval(box)
            x, y = max(float(x), 0.0), max(float(y), 0.0)
            sequence, frame = file.split("/")[-2:]
            corners = (x, y, x + width, y + height)
            boxes.setdefault(sequence, {})[frame.rsplit(".", 1)[0]] = Box(corners, motion)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise UserError(f"Cannot read the boxes of {path}; take MoCA's own file.") from error
    return boxes


_READERS = {
    "davis2016": _davis2016,
    "davis2017_motion": _davis2017_motion,
    "segtrack_v2": _segtrack_v2,
    "fbms59": _fbms59,
    "moca_filter": _moca_filter,
    "ytvos2018_motion": _ytvos2018_motion,
}
assert _READERS.keys() == BENCHMARKS.keys()


def _present(names: Sequence[str], folder: Place) -> list[str]:
    return [name for name in names if (folder / name).is_dir()]


def _by_stem(name: str, frames: Place, annotations: Place, read) -> BenchmarkSequence:
    """A sequence whose annotations are named as their frames; some may have none."""
    pictures = _files(frames / name, _IMAGES)
    if not (annotations / name).is_dir():
        raise _no_annotations(name, annotations / name)
    by_stem = {file.stem: file for file in _files(annotations / name, (".png",))}
    annotated = [frame for frame, picture in enumerate(pictures) if picture.stem in by_stem]
    if not annotated:
        raise UserError(
            f"{annotations / name} holds no annotation that is named as a frame of {name}."
        )
    return _sequence(name, pictures, annotated, lambda frame: read(by_stem[pictures[frame].stem]))


def _sequence(name, pictures, annotated, read, boxes=None) -> BenchmarkSequence:
    if len(pictures) < 2:
        raise UserError(f"The sequence {name} has {len(pictures)} frames; motion needs two.")
    return BenchmarkSequence(
        name=name,
        folder=name,
        stems=[picture.stem for picture in pictures],
        frame=lambda frame: _read_frame(pictures[frame]),
        annotated=annotated,
        annotation=read,
        boxes=boxes or {},
        encoded=lambda frame: pictures[frame].read_bytes(),
    )


def _no_annotations(name: str, folder: Place) -> UserError:
    return UserError(f"The sequence {name} has no annotations; add them as {folder}.")


def _files(folder: Place, suffixes: tuple[str, ...]) -> list[Place]:
    """Files in the natural order of their names: 2 before 10."""
    files = [
        file
        for file in folder.iterdir()
        if file.name.lower().endswith(suffixes) and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: _natural_order(file.name))


def _natural_order(name: str) -> list[int | str]:
    # Splitting by digits puts text at even and numbers at odd places, so that like meets like.
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]


def _read_frame(path: Place) -> UInt8[np.ndarray, "h w 3"]:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
    if image is None:
        raise UserError(f"The image {path} is broken; replace it.")
    return image


def _read_picture(path: Place, mode: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return np.array(image if mode == image.mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Cannot read the annotation {path}; it is no whole picture.") from error


def _read_ids(path: Place, colours: tuple[tuple[int, int, int], ...]) -> UInt8[np.ndarray, "h w"]:
    """Ids of an indexed picture, or those of `colours` in a colour picture; other colours void."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            if image.mode in ("P", "L"):
                return np.array(image)
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Cannot read the annotation {path}; it is no whole picture.") from error
    ids = np.where(pixels.any(axis=-1), VOID, 0).astype(np.uint8)
    for id, colour in enumerate(colours, start=1):
        ids[(pixels == colour).all(axis=-1)] = id
    return ids

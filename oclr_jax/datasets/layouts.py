"""Reading benchmarks in the layout of their authors, from folders or zip files."""

import ast
import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.datasets.benchmarks import (
    BENCHMARKS,
    DAVIS2017_MOTION_COLOURS,
    YTVOS2018_MOTION_COLOURS,
    Benchmark,
)
from oclr_jax.datasets.dataset_files import (
    AnyPath,
    DatasetRoot,
    list_files,
    read_annotation,
    read_frame,
    read_id_annotation,
)
from oclr_jax.errors import UserError
from oclr_jax.video.names import without_junk

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
# FBMS: grey level, 0 to 1, above which a ground-truth label is an object. Two sequences differ.
_FBMS_THRESHOLD = 0.1
_FBMS_THRESHOLDS = {"marple7": 0.05, "marple2": 0.4}
# YTVOS18-motion: sequences with at least this many frames are split.
_SPLIT_LENGTH = 100


@dataclass(frozen=True)
class Box:
    """A box annotation of MoCA."""

    corners: tuple[float, ...]  # left, top, right, bottom in pixels
    motion: int  # 0 locomotion, 1 deformation, 2 static


@dataclass(frozen=True)
class BenchmarkSequence:
    """One sequence of a benchmark. Images are read on access.

    name: name of the sequence; differs from `folder` for a part of a split sequence.
    folder: name of its folder in flow and results.
    stems: names of the frames, without suffix.
    frame: frame number to RGB image.
    annotated: numbers of the annotated frames.
    annotation: number of an annotated frame to ids (0 background, VOID).
    boxes: by frame number; MoCA only.
    start: for a part, number of its first frame in the whole sequence.
    whole: for a part, the stems of the whole sequence.
    encoded: frame number to the content of its file (JPEG, PNG or BMP).
    flow: flow stored with the dataset, at its gap and the negative gap: (u, v, u, v) in pixels of
      its grid.
    """

    name: str
    folder: str
    stems: list[str]
    frame: Callable[[int], UInt8[np.ndarray, "h w 3"]]
    annotated: list[int]
    annotation: Callable[[int], UInt8[np.ndarray, "h w"]]
    boxes: dict[int, Box] = field(default_factory=dict)
    start: int = 0
    whole: tuple[str, ...] = ()
    encoded: Callable[[int], bytes] | None = None
    flow: Callable[[], Float32[np.ndarray, "t h w 4"]] | None = None

    def frames(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The frames in order, RGB."""
        return map(self.frame, range(len(self.stems)))


def find_benchmark_sequences(
    benchmark: Benchmark, root: str | os.PathLike, split: str = "validation"
) -> list[BenchmarkSequence]:
    """The sequences of a split that are present in `root`, in the official order.

    `root` is the folder of the dataset, its parent folder, or a zip file of it. Raises UserError,
    with the expected and the found layout, if the layout differs or no sequence is present.
    """
    root = Path(root)
    if not root.exists():
        raise UserError(f"The dataset folder {root} does not exist; check the path.")
    wanted = benchmark.sequences(split)
    sequences = _READERS[benchmark.name](DatasetRoot(benchmark, root), wanted, split)
    if not sequences:
        raise UserError(
            f"{root} contains none of the {len(wanted)} sequences of {benchmark.title} ({split}), "
            f"such as {wanted[0]}; add them."
        )
    return sequences


def _davis2016(root: DatasetRoot, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames, annotations = root.find("JPEGImages/480p"), root.find("Annotations/480p")

    def read(path: AnyPath) -> UInt8[np.ndarray, "h w"]:
        return (read_annotation(path, "L") > 0).astype(np.uint8)

    return [_sequence_by_stem(name, frames, annotations, read) for name in _present(names, frames)]


def _davis2017_motion(
    root: DatasetRoot, names: Sequence[str], split: str
) -> list[BenchmarkSequence]:
    frames, annotations = root.find("JPEGImages/480p"), root.find("Annotations_motion/480p")

    def read(path: AnyPath) -> UInt8[np.ndarray, "h w"]:
        return read_id_annotation(path, DAVIS2017_MOTION_COLOURS)

    return [_sequence_by_stem(name, frames, annotations, read) for name in _present(names, frames)]


def _ytvos2018_motion(
    root: DatasetRoot, names: Sequence[str], split: str
) -> list[BenchmarkSequence]:
    frames, annotations = root.find("JPEGImages"), root.find("Annotations_motion")

    def read(path: AnyPath) -> UInt8[np.ndarray, "h w"]:
        return read_id_annotation(path, YTVOS2018_MOTION_COLOURS)

    return [
        part
        for name in _present(names, frames)
        for part in split_long_sequence(_sequence_by_stem(name, frames, annotations, read))
    ]


def split_long_sequence(sequence: BenchmarkSequence) -> list[BenchmarkSequence]:
    """Splits a sequence of 100 frames or more into equal parts; the last takes the remainder.

    Parts are named `<name>_part1`, ...; those without annotations are dropped. This is the rule of
    the second paper's program for YTVOS18-motion.
    """
    count = len(sequence.stems)
    parts = count // _SPLIT_LENGTH + 1
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


def _segtrack_v2(root: DatasetRoot, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames, truth = root.find("JPEGImages"), root.find("GroundTruth")
    found = []
    for name in _present(names, frames):
        pictures, folder = list_files(frames / name, _IMAGE_SUFFIXES), truth / name
        if not folder.is_dir():
            raise _no_annotations(name, folder)
        # Sequences with several objects have a folder per object; all objects are foreground.
        folders = [child for child in without_junk(folder.iterdir()) if child.is_dir()]
        folders = folders or [folder]
        objects = [
            list_files(one, _IMAGE_SUFFIXES) for one in sorted(folders, key=lambda one: one.name)
        ]
        for one, files in zip(folders, objects, strict=True):
            if len(files) != len(pictures):
                raise UserError(
                    f"{one} contains {len(files)} annotations for {len(pictures)} frames of "
                    f"{name}; there must be one per frame."
                )

        def read(frame: int, objects=objects) -> UInt8[np.ndarray, "h w"]:
            masks = [read_annotation(files[frame], "L") > 127 for files in objects]
            return np.any(masks, axis=0).astype(np.uint8)

        found.append(_sequence(name, pictures, list(range(len(pictures))), read))
    return found


def _fbms59(root: DatasetRoot, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    sequences = root.find("Testset" if split == "validation" else "Trainingset")
    found = []
    for name in _present(names, sequences):
        pictures = list_files(sequences / name, _IMAGE_SUFFIXES)
        folder = sequences / name / "GroundTruth"
        files = _fbms_annotations(name, pictures, folder)

        def read(frame: int, name=name, files=files) -> UInt8[np.ndarray, "h w"]:
            grey = read_annotation(files[frame], "RGB")
            grey = cv2.cvtColor(grey, cv2.COLOR_RGB2GRAY) / 255.0
            if files[frame].name.endswith(".ppm"):
                grey[grey > 0.99] = 0  # white is background in colour annotations
            return (grey > _FBMS_THRESHOLDS.get(name, _FBMS_THRESHOLD)).astype(np.uint8)

        found.append(_sequence(name, pictures, sorted(files), read))
    return found


def _fbms_annotations(name: str, pictures: list[AnyPath], folder: AnyPath) -> dict[int, AnyPath]:
    """The sparse annotations of an FBMS sequence, by frame number. Colour files take precedence."""
    if not folder.is_dir():
        raise _no_annotations(name, folder)
    files = [file for file in list_files(folder, (".ppm",)) if "PROB" not in file.name]
    files = files or list_files(folder, (".pgm",))
    numbers = [_number_after(name, file.name) for file in files]
    own = {_number_after(name, picture.name): frame for frame, picture in enumerate(pictures)}
    if not files or None in numbers:
        raise _no_annotations(name, folder)
    if set(numbers) <= own.keys():
        return {own[number]: file for number, file in zip(numbers, files, strict=True)}
    if min(numbers) < 1 or max(numbers) > len(pictures):
        raise UserError(
            f"{folder} annotates frame {max(numbers)}, but {name} has {len(pictures)} frames; "
            "download the sequence again."
        )
    return {number - 1: file for number, file in zip(numbers, files, strict=True)}


def _number_after(sequence: str, file: str) -> int | None:
    """The frame number in a file name, which may start with the name of the sequence."""
    digits = re.search(r"\d+", file.removeprefix(sequence))
    return int(digits.group()) if digits else None


def _moca_filter(root: DatasetRoot, names: Sequence[str], split: str) -> list[BenchmarkSequence]:
    frames = root.find("JPEGImages")
    boxes = read_moca_boxes(root.find("annotations.csv", "Annotations/annotations.csv"))
    found = []
    for name in _present(names, frames):
        pictures = list_files(frames / name, _IMAGE_SUFFIXES)
        of_frame = {
            frame: boxes[name][picture.stem]
            for frame, picture in enumerate(pictures)
            if picture.stem in boxes.get(name, {})
        }
        if not of_frame:
            raise UserError(
                f"annotations.csv has no box for the frames of {name}; use the file that belongs "
                "to these frames."
            )

        def read(frame: int, pictures=pictures, of_frame=of_frame) -> UInt8[np.ndarray, "h w"]:
            height, width = read_frame(pictures[frame]).shape[:2]
            mask = np.zeros((height, width), np.uint8)
            left, top, right, bottom = (round(side) for side in of_frame[frame].corners)
            mask[top:bottom, left:right] = 1
            return mask

        found.append(_sequence(name, pictures, sorted(of_frame), read, of_frame))
    return found


def read_moca_boxes(path: AnyPath) -> dict[str, dict[str, Box]]:
    """The boxes of a MoCA annotation file, by sequence and frame name.

    Rows are `number, /<sequence>/<frame>.jpg, "[2, x, y, width, height]", {'1': 'motion'}`. An
    empty motion `{}` means that of the previous row; rows without a box are skipped. A box that
    starts left of or above the image is moved inside, as in the MoCA evaluator.
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
        raise UserError(
            f"Cannot read the boxes in {path}; use the file that MoCA distributes."
        ) from error
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


def _present(names: Sequence[str], folder: AnyPath) -> list[str]:
    return [name for name in names if (folder / name).is_dir()]


def _sequence_by_stem(name: str, frames: AnyPath, annotations: AnyPath, read) -> BenchmarkSequence:
    """A sequence whose annotations have the names of their frames. Not all frames need one."""
    pictures = list_files(frames / name, _IMAGE_SUFFIXES)
    if not (annotations / name).is_dir():
        raise _no_annotations(name, annotations / name)
    by_stem = {file.stem: file for file in list_files(annotations / name, (".png",))}
    annotated = [frame for frame, picture in enumerate(pictures) if picture.stem in by_stem]
    if not annotated:
        raise UserError(
            f"{annotations / name} contains no annotation with the name of a frame of {name}; "
            "name them alike."
        )
    return _sequence(name, pictures, annotated, lambda frame: read(by_stem[pictures[frame].stem]))


def _sequence(name, pictures, annotated, read, boxes=None) -> BenchmarkSequence:
    if len(pictures) < 2:
        raise UserError(f"The sequence {name} has {len(pictures)} frames; at least two are needed.")
    return BenchmarkSequence(
        name=name,
        folder=name,
        stems=[picture.stem for picture in pictures],
        frame=lambda frame: read_frame(pictures[frame]),
        annotated=annotated,
        annotation=read,
        boxes=boxes or {},
        encoded=lambda frame: pictures[frame].read_bytes(),
    )


def _no_annotations(name: str, folder: AnyPath) -> UserError:
    return UserError(f"The sequence {name} has no annotations; add them in {folder}.")

"""Opens the dataset of an evaluation: a benchmark, its TFDS build, or the user's own folder."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oclr_jax.datasets.benchmarks import BENCHMARKS, DEVELOPMENT, SYNTHETIC, Benchmark
from oclr_jax.datasets.built import read_built_benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence, find_benchmark_sequences
from oclr_jax.errors import UserError
from oclr_jax.evaluate.synthetic import find_synthetic, synthetic_title
from oclr_jax.video.folder import FrameFolder
from oclr_jax.video.images import read_image
from oclr_jax.video.names import without_junk
from oclr_jax.video.png import read_ids

_FOLDER = Benchmark(
    "folder",
    "folder",
    "JPEGImages/[480p/]<sequence>/*.jpg\nAnnotations/[480p/]<sequence>/*.png",
    "the user",
    protocols=("paper", "sequence-oracle", "union"),
    single=False,
)
# Protocols for synthetic data that are not those of table 1, which `evaluate_synthetic` has.
ON_TRACKS = ("sequence-oracle", "union")


@dataclass(frozen=True)
class Dataset:
    """A dataset to evaluate on."""

    benchmark: Benchmark
    title: str  # states if only a part of the benchmark is present
    sequences: list[BenchmarkSequence]
    flow: dict | None = None  # settings of the flow stored with it, including its gap


def open_dataset(name: str, data: str | os.PathLike) -> Dataset:
    """Opens a benchmark by name, or for `folder` frames and annotations in the layout of DAVIS.

    Synthetic data, one of `SYNTHETIC`, are opened with the visible masks as truth.

    `data` is the dataset as its authors distribute it, or the output of its TFDS builder, which
    includes flow. Raises UserError if it is neither.
    """
    if name in SYNTHETIC:
        sequences = [sequence.as_benchmark() for sequence in find_synthetic(name, data)]
        title = synthetic_title(name, data)
        benchmark = Benchmark(name, title, "", "", protocols=ON_TRACKS, single=False)
        return Dataset(benchmark, title, sequences, {"estimator": "stored with the data", "gap": 1})
    if name == "folder":
        sequences = _folder_sequences(Path(data))
        title = _title(Path(data).resolve().name, sequences, None)
        return Dataset(_FOLDER, title, sequences)
    benchmark = BENCHMARKS[name]
    flow = None
    if (Path(data) / "features.json").is_file():
        sequences, flow = read_built_benchmark(benchmark, data)
    else:
        sequences = find_benchmark_sequences(benchmark, data)
    total = len(benchmark.sequences())
    return Dataset(benchmark, _title(benchmark.title, sequences, total), sequences, flow)


def _title(title: str, sequences: list[BenchmarkSequence], total: int | None) -> str:
    present = {sequence.folder for sequence in sequences}
    if present == DEVELOPMENT and title in ("DAVIS2016", "davis2016_dev"):
        return "DAVIS2016 dev-4"
    if total in (None, len(present)):
        return title
    return f"{title}, {len(present)} of {total} sequences"


def _folder_sequences(data: Path) -> list[BenchmarkSequence]:
    """Finds the sequences of a folder in the layout of DAVIS, with or without `480p`."""
    if not data.is_dir():
        raise UserError(f"The dataset folder {data} does not exist; check the path.")
    for resolution in ("480p", ""):
        frames, annotations = (data / part / resolution for part in ("JPEGImages", "Annotations"))
        if frames.is_dir() and annotations.is_dir():
            break
    else:
        raise UserError(
            f"{data} does not have the layout of DAVIS: the folders JPEGImages and Annotations."
        )
    names = sorted(path.name for path in without_junk(frames.iterdir()) if path.is_dir())
    if not names:
        raise UserError(
            f"{frames} holds no sequences; put one folder of frames per sequence there."
        )
    for name in names:
        if not (annotations / name).is_dir():
            raise UserError(f"The sequence {name} has no annotations; add {annotations / name}.")
    return [_folder_sequence(frames / name, annotations / name) for name in names]


def _folder_sequence(frames: Path, annotations: Path) -> BenchmarkSequence:
    video = FrameFolder(frames)
    stems = video.stems()
    annotated = [i for i, stem in enumerate(stems) if (annotations / f"{stem}.png").is_file()]
    if not annotated:
        raise UserError(
            f"{annotations} holds no annotation that is named as a frame of {frames.name}."
        )
    return BenchmarkSequence(
        name=frames.name,
        folder=frames.name,
        stems=stems,
        frame=lambda frame: np.ascontiguousarray(read_image(video.files[frame])),
        annotated=annotated,
        annotation=lambda frame: read_ids(annotations / f"{stems[frame]}.png"),
    )

"""Opens the dataset of an evaluation: a benchmark, its TFDS build, or the user's own folder."""

import os
from dataclasses import dataclass
from pathlib import Path

from oclr_jax.datasets.annotated_folder import find_folder_sequences
from oclr_jax.datasets.benchmarks import BENCHMARKS, DEVELOPMENT, SYNTHETIC, Benchmark
from oclr_jax.datasets.built import read_built_benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence, find_benchmark_sequences
from oclr_jax.evaluate.synthetic import find_synthetic, synthetic_title

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
        sequences = find_folder_sequences(data)
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

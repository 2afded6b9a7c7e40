"""Reading benchmarks built as TFDS datasets: frames, annotations and flow."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from oclr_jax.datasets.benchmarks import Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence, Box
from oclr_jax.errors import UserError


def read_built_benchmark(
    benchmark: Benchmark, directory: str | os.PathLike
) -> tuple[list[BenchmarkSequence], dict[str, Any] | None]:
    """The validation sequences of a built benchmark, and the settings of their flow, if any."""
    source, metadata = open_built(benchmark.name, directory)
    flow = metadata.get("flow")

    @lru_cache(maxsize=1)  # a record is decoded as a whole, and sequences are read in order
    def example(index: int) -> dict[str, Any]:
        return source[index]

    return [_sequence(example, index, flow) for index in range(len(source))], flow


def open_built(name: str, directory: str | os.PathLike) -> tuple[Any, dict[str, Any]]:
    """The validation examples of a built TFDS dataset, as a random-access source; its metadata.

    Raises UserError if the directory is not that dataset, or tensorflow-datasets (extra `data`) is
    not installed.
    """
    if not (Path(directory) / "features.json").is_file():
        raise UserError(
            f"{directory} is not a built dataset; give the folder that contains features.json."
        )
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"Reading the built dataset {directory} needs the extra `data`; install it, or give "
            "the original folder of the dataset."
        ) from error
    builder = tfds.builder_from_directory(str(directory))
    if builder.name != name:
        raise UserError(
            f"{directory} contains the dataset {builder.name}, not {name}; give the right folder."
        )
    if "validation" not in builder.info.splits:
        raise UserError(f"{directory} has no validation split; build the dataset with one.")
    metadata = dict(builder.info.metadata or {})
    return builder.as_data_source(split="validation"), metadata


def _sequence(example, index: int, flow: dict[str, Any] | None) -> BenchmarkSequence:
    meta = example(index)["metadata"]
    annotated = [int(frame) for frame in meta["annotated_frames"]]
    boxes = {
        frame: Box(tuple(float(side) for side in corners), int(motion))
        for frame, corners, motion in zip(
            annotated, meta["boxes"], meta["box_motion"], strict=False
        )
    }

    def annotation(frame: int) -> np.ndarray:
        return example(index)["video"]["segmentations"][annotated.index(frame), ..., 0]

    def stored_flow() -> np.ndarray:
        fields = example(index)
        parts = [fields[f"estimated_{way}_flow"] for way in ("forward", "backward")]
        return np.concatenate(parts, axis=-1).astype(np.float32)

    return BenchmarkSequence(
        name=_text(meta["video_name"]),
        folder=_text(meta["folder"]),
        stems=[_text(stem) for stem in meta["frame_names"]],
        frame=lambda frame: np.asarray(example(index)["video"]["frames"][frame]),
        annotated=annotated,
        annotation=annotation,
        boxes=boxes,
        flow=stored_flow if flow else None,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

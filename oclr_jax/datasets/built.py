"""Benchmarks as the TFDS builders leave them: frames, annotations and flow in one file."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from oclr_jax.datasets.benchmarks import Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence, Box
from oclr_jax.errors import UserError


def read_stored(
    benchmark: Benchmark, directory: str | os.PathLike
) -> tuple[list[BenchmarkSequence], dict[str, Any] | None]:
    """The validation sequences in a builder's directory, and the settings of their flow."""
    source, metadata = open_built(benchmark.name, directory)
    flow = metadata.get("flow")

    @lru_cache(maxsize=1)  # a record is decoded whole, and sequences are gone through in order
    def example(index: int) -> dict[str, Any]:
        return source[index]

    return [_sequence(example, index, flow) for index in range(len(source))], flow


def open_built(name: str, directory: str | os.PathLike) -> tuple[Any, dict[str, Any]]:
    """The validation examples, by number, of a built TFDS dataset, and its metadata.

    Needs tensorflow-datasets (extra `data`). Raises UserError where it is missing, and where the
    directory holds no such dataset.
    """
    if not (Path(directory) / "features.json").is_file():
        raise UserError(
            f"{directory} holds no built dataset; give the folder with features.json in it."
        )
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"{directory} is a built dataset, and reading it needs the extra `data`; install it or "
            "give the dataset's original folder."
        ) from error
    builder = tfds.builder_from_directory(str(directory))
    if builder.name != name:
        raise UserError(f"{directory} holds the dataset {builder.name}, not {name}.")
    if "validation" not in builder.info.splits:
        raise UserError(f"{directory} has no split called validation; build it with one.")
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

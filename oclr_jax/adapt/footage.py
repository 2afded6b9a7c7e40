"""The videos of an adaptation, and their flow at several gaps, on disk."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from oclr_jax.datasets.benchmarks import BENCHMARKS
from oclr_jax.datasets.built import read_built_benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.flow import FlowEstimator, FrameFlow, stream_flow
from oclr_jax.flow.gaps import take_gaps
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.folder import FOLDER_FPS
from oclr_jax.video.times import even_times


@dataclass(frozen=True)
class Footage:
    """A video to adapt to. Frames that only repeat an earlier one are left out."""

    source: str  # as it was given
    clip: Clip

    def describe(self) -> dict[str, str | int]:
        """JSON values that tell one video from another."""
        clip = self.clip
        size = {"frames": clip.count, "height": clip.height, "width": clip.width}
        return {"source": self.source, "name": clip.name, **size}


def open_footage(videos: Sequence[str | os.PathLike], quiet: bool = True) -> list[Footage]:
    """Opens video files, folders of frames, and benchmarks that were built as TFDS datasets.

    Of a benchmark all validation sequences are used; annotations are not read.

    Raises:
      UserError: a video cannot be read, or a folder is a dataset that is no benchmark.
    """
    found = []
    for video in videos:
        source = os.fspath(video)
        if (Path(source) / "features.json").is_file():
            sequences = _built_sequences(Path(source))
            found += [Footage(f"{source}:{s.name}", _sequence_clip(s)) for s in sequences]
        else:
            found.append(Footage(source, open_clip(video, quiet).without_repeats()))
    return found


def _built_sequences(directory: Path) -> list[BenchmarkSequence]:
    try:
        name = json.loads((directory / "dataset_info.json").read_text())["name"]
        benchmark = BENCHMARKS[name]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory} is a dataset, but no benchmark ({', '.join(BENCHMARKS)}); give a "
            "benchmark, video files or folders of frames."
        ) from error
    return read_built_benchmark(benchmark, directory)[0]


def _sequence_clip(sequence: BenchmarkSequence) -> Clip:
    height, width, _ = sequence.frame(0).shape
    count = len(sequence.stems)
    times = even_times(count, FOLDER_FPS)
    place = (sequence.name, list(sequence.stems), height, width, FOLDER_FPS, times)
    return Clip(*place, [range(count)], sequence.frames)


@dataclass(frozen=True)
class StoredFlow:
    """The flow of a video at several gaps on the model grid; one frame is read at a time.

    folder: has flow.npy, float16 [t h w 2g], and images.npy, uint8 [t h w 3], the frames.
    gaps: g gaps, in the order of the channels.
    shots: of the video.
    """

    folder: Path
    gaps: tuple[int, ...]
    shots: tuple[range, ...]

    def stream(self, gaps: Sequence[int]) -> Iterator[FrameFlow]:
        """As `stream_flow`, for some of the gaps; shots too short for all of them are left out."""
        flow, images = (np.load(self.folder / f"{n}.npy", "r") for n in ("flow", "images"))
        for number, shot in enumerate(self.shots):
            if len(shot) < _shortest(self.gaps):
                continue
            for frame in shot:
                field = take_gaps(flow[frame].astype(np.float32), self.gaps, gaps)
                yield FrameFlow(number, frame, field, np.array(images[frame]))

    def read(self, frames: Sequence[int], gaps: Sequence[int]) -> Float32[np.ndarray, "t h w c"]:
        """The flow of some frames at some gaps."""
        flow = np.load(self.folder / "flow.npy", "r")
        return take_gaps(flow[list(frames)].astype(np.float32), self.gaps, gaps)


def _shortest(gaps: Sequence[int]) -> int:
    return 2 * max(abs(gap) for gap in gaps)


def store_flow(
    footage: Footage,
    estimator: FlowEstimator,
    gaps: tuple[int, ...],
    size: tuple[int, int],
    folder: Path,
    quiet: bool = True,
) -> StoredFlow:
    """Estimates the flow of a video at all gaps, or takes what an earlier call has stored.

    Args:
      size: (height, width) of the model grid.
      folder: for the two arrays.
    """
    clip, what = footage.clip, f"flow of {footage.clip.name}"
    stored = StoredFlow(folder, gaps, tuple(clip.shots))
    if (folder / "flow.npy").exists():
        return stored
    shapes = {"images": (clip.count, *size, 3), "flow": (clip.count, *size, 2 * len(gaps))}
    folder.mkdir(parents=True, exist_ok=True)
    # The flow is renamed into place last: where it is, both are whole.
    with (
        replacing(folder / "flow.npy") as flow_path,
        replacing(folder / "images.npy") as images_path,
    ):
        images = _new_array(images_path, np.uint8, shapes["images"])
        flow = _new_array(flow_path, np.float16, shapes["flow"])
        fields = stream_flow(clip, estimator, gaps, size)
        for field in progress(fields, what, clip.count, quiet):
            images[field.frame], flow[field.frame] = field.image, field.flow
        images.flush()
        flow.flush()
    return stored


def _new_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, "w+", dtype, shape)

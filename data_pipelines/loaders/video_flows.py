"""Pairs of flows of the same frame, from videos without annotations.

For the self-supervised training of Motion Grouping. The flow of the videos is estimated once and
kept in files on the model grid, 0.23 MB per frame at four gaps of 128x224.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Float32

from data_pipelines.loaders.batches import Loader, make_batches
from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.flow import FlowFolder, open_source, stream_flow
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.names import natural_sorted, without_junk

EPOCH = 100  # samples; of no consequence, because every sample is drawn at random
VALIDATION_SAMPLES = 64  # at most
_DEFAULT_FLOW = {"estimator": "dis"}


class FlowPair(TypedDict):
    """One example: flow at two gaps of one frame, (u, v) each, in pixels of the grid."""

    flow: Float32[np.ndarray, "1 h w 4"]


def make_video_flow_loaders(
    videos: str | os.PathLike,
    flow: str,
    cache: str | os.PathLike,
    *,
    gaps: Sequence[int],
    height: int,
    width: int,
    batch_size: int,
    quiet: bool = False,
    **batching: int,
) -> tuple[Loader, Loader]:
    """Opens a folder of videos as batches of flow pairs, for training and for validation.

    For a training sample the two gaps, then the video, then the frame are drawn uniformly, as in
    the published program of Motion Grouping. Validation samples are drawn once. At the ends of a
    video a missing flow is that of the opposite gap, negated.

    Args:
      videos: folder of video files, or of folders of frames.
      flow: an estimator, or a folder of flow files; see `oclr_jax.flow.source`.
      cache: folder in which the estimated flow is kept; another run finds it there.
      gaps: at least two, in frames.
      height, width: the model grid.
      batch_size, batching: of training, as `make_batches`.
      quiet: no progress bar.

    Raises:
      UserError: there are no videos, one cannot be read or is too short, or there is no such flow.
    """
    if len(gaps) < 2:
        raise UserError("Flow pairs need flow at two gaps; give model.gaps at least two.")
    paths = _find_videos(Path(videos))
    size, settings = (height, width), {}
    files = []
    for path in progress(paths, "estimating flow", len(paths), quiet):
        clip = open_clip(path)
        source = open_source(flow, _DEFAULT_FLOW, clip, gaps)
        if isinstance(source, FlowFolder):
            settings = {"estimator": "folder", "folder": os.fspath(source.folder)}
        else:
            clip, settings = clip.without_repeats(), source.settings()
        files.append(_stored_flow(clip, path, source, settings, Path(cache), tuple(gaps), size))
    metadata = {"flow": settings, "data_version": f"{len(paths)} videos, no annotations"}
    samples = max(EPOCH, batch_size * batching.get("process_count", 1))
    training = make_batches(
        FlowPairs(files, samples, "train", os.fspath(videos)),
        metadata,
        random_pair,
        train=True,
        batch_size=batch_size,
        **batching,
    )
    process = {name: n for name, n in batching.items() if name.startswith("process_")}
    validation = make_batches(
        FlowPairs(files, VALIDATION_SAMPLES, "validation", os.fspath(videos)),
        metadata,
        _fixed_pair,
        train=False,
        batch_size=1,
        **process,
    )
    return training, validation


class FlowPairs:
    """A `SequenceSource` of places to draw pairs from; which one is left to the example."""

    def __init__(self, files: Sequence[Path], count: int, split: str, directory: str):
        self.files, self.count, self.split, self.directory = list(files), count, split, directory

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The files of all videos, and the index."""
        return {"index": index, "files": self.files}


def random_pair(place: dict[str, Any], rng: np.random.Generator) -> FlowPair:
    """Flow at two different gaps of a frame of a video, each drawn uniformly."""
    stored = np.load(place["files"][rng.integers(len(place["files"]))], mmap_mode="r")
    gaps = rng.choice(stored.shape[-1] // 2, 2, replace=False)
    frame = stored[rng.integers(len(stored))].astype(np.float32)
    pair = [frame[..., 2 * gap : 2 * gap + 2] for gap in gaps]
    return FlowPair(flow=np.concatenate(pair, axis=-1)[None])


def _fixed_pair(place: dict[str, Any]) -> FlowPair:
    return random_pair(place, np.random.default_rng([1, place["index"]]))


def _find_videos(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"There is no folder of videos {folder}; check data.videos.")
    paths = natural_sorted(without_junk(folder.iterdir()))
    if not paths:
        raise UserError(f"{folder} holds no videos; put video files or folders of frames there.")
    return paths


def _stored_flow(
    clip: Clip,
    path: Path,
    source: Any,
    settings: dict[str, Any],
    cache: Path,
    gaps: tuple[int, ...],
    size: tuple[int, int],
) -> Path:
    """The file with the flow of a video `[t h w 2 gaps]`, float16; written if it is not there."""
    inside = [path] if path.is_file() else sorted(without_junk(path.iterdir()))
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in inside]
    key = json.dumps([os.fspath(path.resolve()), states, settings, gaps, size])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    file = cache / f"{path.stem}-{digest}.npy"
    if not file.exists():
        fields = [one.flow for one in stream_flow(clip, source, gaps, size)]
        if not fields:
            raise UserError(
                f"{path} has no shot of {2 * max(map(abs, gaps))} frames, which flow at the gaps "
                f"{', '.join(map(str, gaps))} needs; leave the video out."
            )
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary, open(temporary, "wb") as opened:
            np.save(opened, np.stack(fields).astype(np.float16))
    return file

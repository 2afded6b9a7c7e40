"""Imports annotated videos as a dataset of `oclr_syn`, with the same features, to train on.

The visible masks stand for the whole objects, and the order of the layers, the largest object
first, says nothing about their depth.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from data_pipelines.builders.examples import encode_footage, footage_settings
from data_pipelines.builders.generation import build_dataset
from data_pipelines.builders.oclr_syn import OclrSynConfig
from data_pipelines.synthetic import DATA_VERSION, SceneConfig
from data_pipelines.synthetic.scene import LAYERS
from oclr_jax.datasets.annotated_folder import find_folder_sequences
from oclr_jax.datasets.benchmarks import VOID
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow
from oclr_jax.types import ANNOTATED
from oclr_jax.video.resize import resize_image


@dataclass(frozen=True)
class AnnotatedClips:
    """The recipe of examples that are cut from annotated videos.

    folder: in the layout of DAVIS.
    clips: name of the sequence and first frame of each clip.
    config: sizes.
    estimator: of the stored flow.
    """

    folder: Path
    clips: tuple[tuple[str, int], ...]
    config: OclrSynConfig
    estimator: FlowEstimator

    def settings(self) -> dict[str, Any]:
        """As `Recipe`; there is no exact flow."""
        values = {
            "data_version": f"{ANNOTATED}-{DATA_VERSION}",
            "clips": self.clips,
            "splits": dict(self.config.splits),
            "sequences_per_shard": self.config.sequences_per_shard,
            "scene": footage_settings(self.config.scene),
            "flow": self.estimator.settings(),
            "exact_flow": False,
            "opencv": cv2.__version__,  # resizes frames and encodes them
        }
        return json.loads(json.dumps(values))

    def examples(self, split: str, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        """As `Recipe`."""
        sequences = {each.name: each for each in find_folder_sequences(self.folder)}
        for index in indices:
            name, start = self.clips[index]
            yield index, self._example(sequences[name], start)

    def _example(self, sequence: BenchmarkSequence, start: int) -> dict[str, Any]:
        scene = self.config.scene
        numbers = range(start, start + scene.frames)
        size = scene.render_height, scene.render_width
        frames = np.stack([resize_image(sequence.frame(number), *size) for number in numbers])
        flow = gap_flows(frames, (1, -1), self.estimator)
        masks = object_masks(
            [sequence.annotation(number) for number in numbers], scene.height, scene.width
        )
        name = f"{sequence.name}_{start:05d}"
        return encode_footage(frames, masks, resize_flow(flow, scene.height, scene.width), name)


def object_masks(
    annotations: list[UInt8[np.ndarray, "h w"]], height: int, width: int
) -> UInt8[np.ndarray, "t H W 3"]:
    """Masks of the largest objects of a clip on a grid, the largest first; void is background.

    Where the only value is that of void, it is the one object, as in binary masks of 0 and 255.
    """
    ids, areas = np.unique(np.stack(annotations), return_counts=True)
    area = {id: count for id, count in zip(ids.tolist(), areas.tolist(), strict=True) if id}
    if area.keys() != {VOID}:
        area.pop(VOID, None)
    masks = np.zeros((len(annotations), height, width, LAYERS), np.uint8)
    for layer, id in enumerate(sorted(area, key=lambda id: -area[id])[:LAYERS]):
        for t, annotation in enumerate(annotations):
            mask = (annotation == id).astype(np.float32)
            masks[t, ..., layer] = resize_image(mask, height, width) >= 0.5
    # An object without a cell of the grid is no layer.
    return np.ascontiguousarray(masks[..., np.argsort(~masks.any((0, 1, 2)), kind="stable")])


def import_annotated(
    folder: str | os.PathLike,
    data_dir: str | os.PathLike,
    name: str,
    split: str,
    estimator: FlowEstimator,
    frames: int = 30,
    processes: int = 1,
    quiet: bool = False,
) -> tuple[Path, bool]:
    """Writes clips of annotated videos as `data_dir/oclr_syn/<name>`, for training.

    Frames and masks are resized to the sizes of the synthetic data. A clip is a run of frames that
    are all annotated; the clips of a sequence do not overlap, and frames that are left over are not
    used.

    Args:
      folder: with `JPEGImages/[480p/]<sequence>` and `Annotations/[480p/]<sequence>`.
      data_dir: TFDS data directory on a local disk.
      name: of the dataset configuration to write, such as "davis_train".
      split: "train" or "validation".
      estimator: of the flow.
      frames: of a clip.
      processes: number of processes that read and write.
      quiet: no progress bar.

    Returns:
      The dataset's directory, and whether anything was written.

    Raises:
      UserError: as `find_folder_sequences`, or no sequence has so many annotated frames in a row.
    """
    if frames < 2:
        raise UserError(f"A clip needs at least two frames, not {frames}.")
    clips = tuple(
        (sequence.name, start)
        for sequence in find_folder_sequences(folder)
        for start in clip_starts(sequence.annotated, frames)
    )
    if not clips:
        raise UserError(
            f"No sequence of {folder} has {frames} annotated frames in a row; lower --frames."
        )
    config = OclrSynConfig(
        name=name,
        description="Annotated videos, imported.",
        scene=replace(SceneConfig(), frames=frames),
        splits={split: len(clips)},
    )
    recipe = AnnotatedClips(Path(folder), clips, config, estimator)
    return build_dataset(config, data_dir, recipe, processes, quiet)


def clip_starts(annotated: list[int], frames: int) -> list[int]:
    """First frames of the clips of `frames` frames in a row that are all annotated."""
    starts, run = [], []
    for number in annotated:
        run = [*run, number] if run and number == run[-1] + 1 else [number]
        if len(run) == frames:
            starts.append(run[0])
            run = []
    return starts

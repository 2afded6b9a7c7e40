"""Imports the published Syn-Train and Syn-Val as datasets of `oclr_syn`, with the same features.

Layout: `JPEGImages/<sequence>`, `AmodalAnnotations/<sequence>/<k>_<frame>.png`,
`Flows_gap1/<sequence>/<frame>.flo` and `Flows_gap-1/...`. The name of a sequence starts with its
number of objects. The published layers are ordered back to front, ours front to back.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from data_pipelines.builders.examples import encode_footage, footage_settings
from data_pipelines.builders.generation import build_dataset
from data_pipelines.builders.oclr_syn import OclrSynConfig
from data_pipelines.synthetic import DATA_VERSION, SceneConfig
from data_pipelines.synthetic.scene import LAYERS
from oclr_jax.errors import UserError
from oclr_jax.flow.folder import FlowFolder
from oclr_jax.flow.resize import resize_flow
from oclr_jax.video.folder import FrameFolder
from oclr_jax.video.images import read_image
from oclr_jax.video.names import without_junk
from oclr_jax.video.png import read_ids
from oclr_jax.video.resize import resize_image


@dataclass(frozen=True)
class PublishedData:
    """The recipe of examples that are read from the published folders.

    folder: contains the four folders above.
    sequences: their names, in order.
    config: sizes.
    """

    folder: Path
    sequences: tuple[str, ...]
    config: OclrSynConfig

    def settings(self) -> dict[str, Any]:
        """As `Recipe`; the flow is the published RAFT flow, and there is no exact flow."""
        return {
            "data_version": f"released-{DATA_VERSION}",
            "splits": dict(self.config.splits),
            "sequences_per_shard": self.config.sequences_per_shard,
            "scene": footage_settings(self.config.scene),
            "flow": {"estimator": "raft"},
            "exact_flow": False,
            "opencv": cv2.__version__,  # resizes frames and encodes them
        }

    def examples(self, split: str, indices: range) -> Iterator[tuple[int, dict[str, Any]]]:
        """As `Recipe`."""
        for index in indices:
            yield index, self._example(self.sequences[index])

    def _example(self, name: str) -> dict[str, Any]:
        scene = self.config.scene
        t, h, w = scene.frames, scene.height, scene.width
        video = FrameFolder(self.folder / "JPEGImages" / name)
        if len(video.files) != t:
            raise UserError(
                f"The sequence {name} in {self.folder} has {len(video.files)} frames, but the "
                f"first sequence has {t}; remove or repair it."
            )
        flow = np.stack(list(FlowFolder(self.folder, video.stems(), (1, -1), name)))
        flow = resize_flow(flow, h, w)
        amodal = self._amodal(name, video.stems())
        size = scene.render_height, scene.render_width
        frames = np.stack([resize_image(read_image(file), *size) for file in video.files])
        return encode_footage(frames, amodal, flow, name)

    def _amodal(self, name: str, stems: list[str]) -> UInt8[np.ndarray, "t h w 3"]:
        """Masks of all layers on the model grid, front to back, empty layers last."""
        folder, scene = self.folder / "AmodalAnnotations" / name, self.config.scene
        numbers = sorted(
            {int(path.name.split("_")[0]) for path in without_junk(folder.glob("*_*.png"))}
        )
        if not 1 <= len(numbers) <= LAYERS or str(len(numbers)) != name[0]:
            raise UserError(
                f"{folder} has masks of {len(numbers)} layers, but its name says {name[0]}; remove "
                "it or copy it again."
            )
        amodal = np.zeros((len(stems), scene.height, scene.width, LAYERS), np.uint8)
        for layer, number in enumerate(reversed(numbers)):
            for t, stem in enumerate(stems):
                mask = (read_ids(folder / f"{number}_{stem}.png") > 0).astype(np.float32)
                amodal[t, ..., layer] = _on_grid(mask, scene.height, scene.width)
        # A layer without any pixel is empty.
        order = np.argsort(~amodal.any((0, 1, 2)), kind="stable")
        return np.ascontiguousarray(amodal[..., order])


def _on_grid(mask: Float32[np.ndarray, "h w"], height: int, width: int) -> UInt8[np.ndarray, "H W"]:
    return (resize_image(mask, height, width) >= 0.5).astype(np.uint8)


def import_synval(
    folder: str | os.PathLike,
    data_dir: str | os.PathLike,
    name: str,
    split: str,
    processes: int = 1,
    quiet: bool = False,
) -> tuple[Path, bool]:
    """Writes the published data as `data_dir/oclr_syn/<name>`, for training and evaluation.

    Exact flow is unknown and stored as NaN, which the loaders refuse. Masks are resized to the
    model grid by area, flow by `resize_flow`.

    Args:
      folder: with `JPEGImages`, `AmodalAnnotations`, `Flows_gap1` and `Flows_gap-1`.
      data_dir: TFDS data directory on a local disk.
      name: of the dataset configuration to write, such as "published_train".
      split: "train" or "validation".
      processes: number of processes that read and write.
      quiet: no progress bar.

    Returns:
      The dataset's directory, and whether anything was written.

    Raises:
      UserError: folders, files or layers are missing or inconsistent.
    """
    folder = Path(folder)
    images = folder / "JPEGImages"
    for place in (images, folder / "AmodalAnnotations"):
        if not place.is_dir():
            raise UserError(
                f"There is no folder {place}; name the downloaded folder that contains it."
            )
    sequences = tuple(sorted(path.name for path in without_junk(images.iterdir()) if path.is_dir()))
    if not sequences:
        raise UserError(f"{images} has no sequences; name the downloaded folder.")
    first = FrameFolder(images / sequences[0])
    scene = replace(
        SceneConfig(),
        frames=len(first.files),
        render_height=first.height,
        render_width=first.width,
    )
    config = OclrSynConfig(
        name=name,
        description="The published synthetic data (Xie et al., NeurIPS 2022), imported.",
        scene=scene,
        splits={split: len(sequences)},
    )
    return build_dataset(
        config, data_dir, PublishedData(folder, sequences, config), processes, quiet
    )

"""Batches of clips that are rendered while training runs."""

from functools import partial
from typing import Any

import cv2
import numpy as np

from data_pipelines.builders.examples import encode_flow
from data_pipelines.builders.oclr_syn import Rendering
from data_pipelines.loaders.batches import ENDLESS, Loader, own_batches
from data_pipelines.loaders.clip_augmentation import Augmentation
from data_pipelines.loaders.clips import (
    STORED_GAPS,
    check_clip_options,
    clip_fields,
    training_clip,
)
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow


class OnlineSequences:
    """Sequences that are rendered on access, each different; same dicts as `Sequences` of clips.

    A sequence is a function of the recipe and its index alone.
    """

    def __init__(self, recipe: Rendering, flow: str):
        """`flow` is "estimated" or "exact"."""
        self.recipe, self.flow = recipe, flow

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The fields of `clip_fields`, flow rounded as it would be stored."""
        sample = self.recipe.sample("online", index)
        forward, backward = sample["forward_flow"], sample["backward_flow"]
        if self.flow == "estimated":
            estimated = gap_flows(sample["video"], STORED_GAPS, self.recipe.estimator)
            estimated = resize_flow(estimated, *forward.shape[1:3])
            forward, backward = estimated[..., :2], estimated[..., 2:]
        return {
            "forward": encode_flow(forward),
            "backward": encode_flow(backward),
            "amodal": sample["amodal"],
            "segmentations": sample["segmentations"][..., None],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # Runs in worker processes, which already use every core between them.
        cv2.setNumThreads(1)


def make_online_loader(
    recipe: Rendering,
    *,
    frames: int,
    batch_size: int,
    height: int,
    width: int,
    seed: int = 0,
    gaps: tuple[int, ...] = STORED_GAPS,
    flow: str = "estimated",
    stride: int = 1,
    augmentation: Augmentation | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Opens an endless stream of training clips, rendered by the loader's workers.

    No sequence repeats. Otherwise this is `make_clip_loader` in training: the batch of a step
    depends on the recipe, the settings and the step alone.

    Args:
      recipe: scenes, first seed, flow estimator and sources.
      frames, height, width, gaps, flow, stride, augmentation: as `make_clip_loader`.
      batch_size, seed, workers, process_index, process_count: as `make_batches`.

    Raises:
      UserError: such clips cannot be cut from the recipe's sequences.
    """
    import grain

    clip_fields(flow)  # raises for an unknown kind of flow
    name = f"The online data {recipe.config.name}"
    check_clip_options(name, frames, recipe.config.scene.frames, gaps, stride)
    make_clip = partial(
        training_clip,
        frames=frames,
        grid=(height, width),
        gaps=tuple(gaps),
        stride=stride,
        augmentation=augmentation or Augmentation(),
    )
    sequences = grain.MapDataset.source(OnlineSequences(recipe, flow)).seed(seed)
    clips = sequences.random_map(make_clip)
    dataset = own_batches(clips, batch_size, process_index, process_count)
    order = grain.MapDataset.range(len(sequences))
    order = own_batches(order, batch_size, process_index, process_count)
    batches = ENDLESS // (batch_size * process_count)
    return Loader(dataset, order, recipe.settings(), batches, workers)

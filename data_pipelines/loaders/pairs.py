"""Batches of frame pairs with the exact flow between them, from a generated dataset."""

import os
from functools import partial

import numpy as np

from data_pipelines.loaders.batches import Loader, make_batches
from data_pipelines.loaders.pair_transforms import FramePair, PairAugmentation, augment_pair
from data_pipelines.loaders.sequences import open_sequences
from oclr_jax.errors import UserError

# Fields of a stored example, by the names they have here.
_TRAINING_FIELDS = {
    "frames": "video/frames",
    "forward": "forward_flow",
    "backward": "backward_flow",
}
_VALIDATION_FIELDS = {
    "frames": "video/frames",
    "forward": "forward_flow",
    "estimated": "estimated_forward_flow",
}


def make_pair_loader(
    directory: str | os.PathLike,
    split: str,
    *,
    train: bool,
    crop: tuple[int, int] | None = None,
    augmentation: PairAugmentation | None = None,
    **batching: int,
) -> Loader:
    """Opens a split of a generated dataset as batches of neighbouring frames and their flow.

    In training, each sequence of an epoch gives one random pair, in either direction of time,
    augmented and cropped; batches never end. Otherwise each sequence gives its first two frames
    without augmentation, and their DIS flow if the dataset's flow was estimated with DIS.

    Args:
      directory: a dataset whose flow is stored at the rendering resolution, such as `flow_pairs`.
      crop: rows and columns of training pairs.
      augmentation: of training pairs (None: the defaults).
      split, train, batching: as `make_clip_loader`.

    Returns:
      The loader; its batches are `oclr_jax.types.FlowBatch`.

    Raises:
      UserError: there is no such dataset or split, it is damaged, its flow is stored at another
        resolution, or its frames are smaller than the crop.
    """
    fields = _TRAINING_FIELDS if train else _VALIDATION_FIELDS
    sequences, settings = open_sequences(directory, split, fields)
    scene = settings["scene"]
    stored, rendered = ((scene[p + "height"], scene[p + "width"]) for p in ("", "render_"))
    if stored != rendered:
        raise UserError(
            f"The dataset {directory} has flow of {stored[0]}x{stored[1]} for frames of "
            f"{rendered[0]}x{rendered[1]}; use one with both at the same size, such as flow_pairs."
        )
    if train and (crop is None or crop[0] > stored[0] or crop[1] > stored[1]):
        raise UserError(
            f"A crop of {crop} is larger than the frames of {directory}, {stored[0]}x{stored[1]}; "
            "choose a smaller one."
        )
    if train:
        settings_of_pairs = {"crop": crop, "augmentation": augmentation or PairAugmentation()}
        make_example = partial(training_pair, **settings_of_pairs)
    else:
        make_example = partial(validation_pair, estimated=settings["flow"]["estimator"] == "dis")
    return make_batches(sequences, settings, make_example, train=train, **batching)


def training_pair(
    stored: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    augmentation: PairAugmentation,
) -> FramePair:
    """A random augmented pair of neighbouring frames, cropped to (rows, columns)."""
    # The forward flow of the last frame and the backward flow of the first are not real.
    first = int(rng.integers(len(stored["frames"]) - 1))
    if rng.random() < 0.5:
        pair = _pair(stored, "forward", first, first + 1)
    else:
        pair = _pair(stored, "backward", first + 1, first)
    return augment_pair(pair, rng, crop, augmentation)


def validation_pair(stored: dict[str, np.ndarray], *, estimated: bool) -> dict[str, np.ndarray]:
    """The first two frames of a sequence, with their estimated flow if `estimated`."""
    pair = dict(_pair(stored, "forward", 0, 1))
    if estimated:
        pair["estimated"] = stored["estimated"][0].astype(np.float32)
    return pair


def _pair(stored: dict[str, np.ndarray], flow: str, first: int, second: int) -> FramePair:
    return FramePair(
        first=stored["frames"][first],
        second=stored["frames"][second],
        flow=stored[flow][first].astype(np.float32),
        valid=np.ones(stored[flow].shape[1:3], bool),
    )

"""Batches of frame pairs with the exact flow between them, from a generated dataset."""

import os
from functools import partial

import numpy as np

from data_pipelines.loaders.clips import Loader, make_batches, open_sequences
from data_pipelines.loaders.pair_transforms import FramePair, PairAugmentation, augment_pair
from oclr_jax.errors import UserError

_TRAINING = {"frames": "video/frames", "forward": "forward_flow", "backward": "backward_flow"}
_VALIDATION = {
    "frames": "video/frames",
    "forward": "forward_flow",
    "estimated": "estimated_forward_flow",
}


def make_pair_loader(
    directory: str | os.PathLike,
    split: str,
    *,
    batch_size: int,
    train: bool,
    crop: tuple[int, int] | None = None,
    seed: int = 0,
    augmentation: PairAugmentation | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Opens a split of a generated dataset as batches of pairs of neighbouring frames.

    In training, each sequence of an epoch gives one pair, drawn from it in either direction of
    time, varied and cropped; batches never end. Otherwise each sequence gives its first two frames,
    as they are, and with them the flow that the data holds of DIS where DIS estimated it.

    Args:
      directory: of a dataset whose flow is stored at the rendering resolution, as `flow_pairs` is.
      crop: rows and columns of training pairs.
      augmentation: how training pairs are varied (None: the defaults).
      split, batch_size, train, seed, workers, process_index, process_count: as `make_loader`.

    Returns:
      The loader; its batches are `oclr_jax.types.FlowBatch`.

    Raises:
      UserError: no such dataset or split, it is broken, or its frames do not serve.
    """
    fields = _TRAINING if train else _VALIDATION
    sequences, settings = open_sequences(directory, split, fields)
    scene = settings["scene"]
    stored, rendered = ((scene[p + "height"], scene[p + "width"]) for p in ("", "render_"))
    if stored != rendered:
        raise UserError(
            f"The dataset {directory} has flow of {stored[0]}x{stored[1]} for frames of "
            f"{rendered[0]}x{rendered[1]}; pairs need it at the same size, as in flow_pairs."
        )
    if train and (crop is None or crop[0] > stored[0] or crop[1] > stored[1]):
        raise UserError(
            f"A crop of {crop} does not fit into the frames of {directory}, {stored[0]}x"
            f"{stored[1]}; choose a smaller one."
        )
    if train:
        make = partial(training_pair, crop=crop, augmentation=augmentation or PairAugmentation())
    else:
        make = partial(validation_pair, estimated=settings["flow"]["estimator"] == "dis")
    return make_batches(
        sequences,
        settings,
        make,
        train=train,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        process_index=process_index,
        process_count=process_count,
    )


def training_pair(
    stored: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    crop: tuple[int, int],
    augmentation: PairAugmentation,
) -> FramePair:
    """A varied pair of neighbouring frames of a stored sequence, cropped to (rows, columns)."""
    # The flow of the last frame to the next, and of the first to the one before, are made up.
    first = int(rng.integers(len(stored["frames"]) - 1))
    if rng.random() < 0.5:
        pair = _pair(stored, "forward", first, first + 1)
    else:
        pair = _pair(stored, "backward", first + 1, first)
    return augment_pair(pair, rng, crop, augmentation)


def validation_pair(stored: dict[str, np.ndarray], *, estimated: bool) -> dict[str, np.ndarray]:
    """The first two frames of a stored sequence, with their estimated flow or without."""
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

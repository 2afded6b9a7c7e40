"""Batches of clips of flow and masks, from generated datasets."""

import os
from functools import partial
from typing import Any

import numpy as np

from data_pipelines.loaders.batches import Loader, make_batches
from data_pipelines.loaders.clip_augmentation import Augmentation, augment
from data_pipelines.loaders.clip_transforms import FlowClip, drop_unseen, resize_clip
from data_pipelines.loaders.sequences import JoinedSequences, Sequences, open_sequences
from oclr_jax.errors import UserError

# The gaps at which flow is stored, in the order of a clip's channels.
STORED_GAPS = (1, -1)

# The fields of an example that hold each kind of flow: (gap +1, gap -1).
_FLOW_FIELDS = {
    "estimated": ("estimated_forward_flow", "estimated_backward_flow"),
    "exact": ("forward_flow", "backward_flow"),
}


def clip_fields(flow: str) -> dict[str, str]:
    """The fields of an example that a clip is made of, for `Sequences`.

    A sequence then has forward, backward [t h w 2] float16; amodal [t h w k], segmentations
    [t h w 1] uint8.

    Args:
      flow: "estimated" or "exact".

    Raises:
      UserError: `flow` is neither.
    """
    if flow not in _FLOW_FIELDS:
        raise UserError(f"There is no {flow} flow; choose one of {', '.join(_FLOW_FIELDS)}.")
    forward, backward = _FLOW_FIELDS[flow]
    return {
        "forward": forward,
        "backward": backward,
        "amodal": "amodal_segmentations",
        "segmentations": "video/segmentations",
    }


def make_clip_loader(
    directory: str | os.PathLike,
    split: str,
    *,
    frames: int,
    height: int,
    width: int,
    train: bool,
    gaps: tuple[int, ...] = STORED_GAPS,
    flow: str = "estimated",
    stride: int = 1,
    augmentation: Augmentation | None = None,
    extra_datasets: tuple[str | os.PathLike, ...] = (),
    **batching: int,
) -> Loader:
    """Opens a split of a generated dataset as batches of clips.

    In training, sequences are shuffled in every epoch, clips start anywhere in their sequence and
    are augmented, and batches never end. Otherwise each sequence gives one clip, in order, from
    its first frame and without augmentation; the last batch may be smaller. Every training clip
    shows an object.

    Args:
      directory: the dataset, as `dataset_directory` returns it.
      split: "train", "validation", or a TFDS slice such as "train[:100]".
      frames: length T of a clip.
      height, width: model grid; stored clips are resized to it.
      train: see above.
      gaps: of the flow, in the order of the batch's channels; 1 and -1 are stored.
      flow: "estimated" by the dataset's estimator, or "exact".
      stride: largest distance between consecutive frames of a training clip; flow remains that
        between neighbouring frames of the stored sequence.
      augmentation: of training clips (None: the defaults).
      extra_datasets: further datasets to read the same split of, as if the first contained them.
      batching: batch_size and, optionally, seed, workers, process_index and process_count, as
        `make_batches`.

    Returns:
      The loader; its batches are `oclr_jax.types.Batch`.

    Raises:
      UserError: there is no such dataset or split, it is damaged, its sequences are too few or too
        short, or an extra dataset has flow of another estimator.
    """
    sequences, settings = open_sequences(directory, split, clip_fields(flow))
    name = f"The dataset {directory}"
    check_clip_options(name, frames, settings["scene"]["frames"], gaps, stride)
    if extra_datasets:
        sequences, settings = _join(sequences, settings, extra_datasets, frames, gaps, flow)
    cut = {"frames": frames, "grid": (height, width), "gaps": tuple(gaps)}
    if train:
        options = {"stride": stride, "augmentation": augmentation or Augmentation()}
        make_clip = partial(training_clip, **options, **cut)
    else:
        make_clip = partial(validation_clip, **cut)
    return make_batches(sequences, settings, make_clip, train=train, **batching)


def _join(
    first: Sequences,
    settings: dict[str, Any],
    extra_datasets: tuple[str | os.PathLike, ...],
    frames: int,
    gaps: tuple[int, ...],
    flow: str,
) -> tuple[JoinedSequences, dict[str, Any]]:
    """Concatenates datasets; the metadata are the first one's, with every data version once."""
    parts, versions = [first], [settings["data_version"]]
    for directory in extra_datasets:
        part, extra = open_sequences(directory, first.split, clip_fields(flow))
        check_clip_options(f"The dataset {directory}", frames, extra["scene"]["frames"], gaps)
        if extra["flow"] != settings["flow"]:
            raise UserError(
                f"The flow of {directory} was estimated with {extra['flow']}, that of "
                f"{first.directory} with {settings['flow']}; join datasets of one estimator."
            )
        parts.append(part)
        versions.append(extra["data_version"])
    joined = " and ".join(dict.fromkeys(versions))
    return JoinedSequences(parts), {**settings, "data_version": joined}


def check_clip_options(
    name: str, frames: int, stored_frames: int, gaps: tuple[int, ...], stride: int = 1
) -> None:
    """Checks the length, gaps and stride of clips against the sequences they are cut from.

    Args:
      name: of the data, to begin a sentence with.
      frames: length of a clip.
      stored_frames: length of a sequence.

    Raises:
      UserError: such clips cannot be cut.
    """
    if not 1 <= frames <= stored_frames:
        raise UserError(
            f"{name} has sequences of {stored_frames} frames, too short for clips of {frames}; "
            f"choose 1 to {stored_frames} frames."
        )
    if not set(gaps) <= set(STORED_GAPS) or not gaps:
        raise UserError(f"{name} has flow at gaps 1 and -1, not {tuple(gaps)}; use those gaps.")
    if stride < 1:
        raise UserError(f"The stride must be at least 1, not {stride}.")


def validation_clip(
    stored: dict[str, np.ndarray], *, frames: int, grid: tuple[int, int], gaps: tuple[int, ...]
) -> FlowClip:
    """The first `frames` frames of a stored sequence on the grid (height, width)."""
    clip = resize_clip(cut_clip(stored, slice(frames)), *grid)
    return _select_gaps(drop_unseen(clip), gaps)


def training_clip(
    stored: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    frames: int,
    grid: tuple[int, int],
    gaps: tuple[int, ...],
    stride: int,
    augmentation: Augmentation,
) -> FlowClip:
    """A random augmented clip of a stored sequence on the grid (height, width).

    The clip shows an object; see `random_frames`.
    """
    part = random_frames(stored["segmentations"], rng, frames, stride)
    clip = resize_clip(cut_clip(stored, part), *grid)
    return _select_gaps(augment(clip, rng, augmentation), gaps)


def random_frames(
    segmentations: np.ndarray, rng: np.random.Generator, frames: int, stride: int
) -> slice:
    """Chooses the frames of a training clip: 1 to `stride` apart, with an object in view.

    Every stride that fits the sequence is equally likely, then every start.

    Args:
      segmentations: [t h w 1]; 0 is the background.
      rng: random generator.
      frames: length of the clip.
      stride: largest distance between consecutive frames.
    """
    # A clip in which no object is visible teaches nothing.
    visible = segmentations.any(axis=(1, 2, 3))
    by_stride = []
    for step in range(1, stride + 1):
        span = (frames - 1) * step + 1
        parts = [slice(at, at + span, step) for at in range(len(visible) - span + 1)]
        by_stride.append([part for part in parts if visible[part].any()])
    usable = [parts for parts in by_stride if parts]
    parts = usable[rng.integers(len(usable))]
    return parts[rng.integers(len(parts))]


def cut_clip(stored: dict[str, np.ndarray], part: slice) -> FlowClip:
    """Frames of a stored sequence as a clip on the stored grid."""
    amodal = stored["amodal"][part]
    layers = np.arange(1, amodal.shape[-1] + 1, dtype=np.uint8)
    flow = np.concatenate(
        [stored["forward"][part], stored["backward"][part]], axis=-1, dtype=np.float32
    )
    return FlowClip(
        flow=flow,
        amodal=amodal,
        modal=(stored["segmentations"][part] == layers).astype(np.uint8),
    )


def _select_gaps(clip: FlowClip, gaps: tuple[int, ...]) -> FlowClip:
    if gaps == STORED_GAPS:
        return clip
    channels = [2 * STORED_GAPS.index(gap) + axis for gap in gaps for axis in (0, 1)]
    return FlowClip(flow=clip["flow"][..., channels], amodal=clip["amodal"], modal=clip["modal"])

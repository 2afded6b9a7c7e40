"""Batches of clips of RGB frames with their flow, masks and flow-predicted masks."""

import os
from dataclasses import dataclass
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, UInt8

from data_pipelines.builders.predicted_masks import dataset_identity, predicted_masks_directory
from data_pipelines.builders.staging import unfinished_directory
from data_pipelines.loaders.batches import Loader, make_batches
from data_pipelines.loaders.clip_transforms import (
    drop_unseen,
    flip_horizontal,
    flip_vertical,
    random_window,
    resize_layers,
    reverse_time,
    visible_layers,
)
from data_pipelines.loaders.clips import (
    STORED_GAPS,
    check_clip_options,
    clip_fields,
    cut_clip,
    random_frames,
)
from data_pipelines.loaders.photometric import (
    NO_PHOTOMETRIC_AUGMENTATION,
    PhotometricAugmentation,
    change_colours,
)
from data_pipelines.loaders.sequences import Sequences, open_sequences
from oclr_jax.errors import UserError
from oclr_jax.flow.resize import resize_flow
from oclr_jax.video.resize import resize_image


class RGBClip(TypedDict):
    """One example of a batch of `oclr_jax.types.RGBBatch`."""

    rgb: UInt8[np.ndarray, "t h w 3"]
    flow: Float32[np.ndarray, "t h w 4"]
    amodal: UInt8[np.ndarray, "t h w k"]
    modal: UInt8[np.ndarray, "t h w k"]
    predicted: NotRequired[UInt8[np.ndarray, "t h w q"]]
    predicted_order: NotRequired[Float32[np.ndarray, "t q"]]


@dataclass(frozen=True)
class RGBAugmentation:
    """Augmentation of training clips; values are drawn uniformly."""

    flip_horizontal: float = 0.5  # probability
    flip_vertical: float = 0.0  # probability; gravity and the camera's height are cues
    reverse_time: float = 0.5  # probability
    zoom: float = 0.5  # probability of a crop that is resized to the whole grid
    min_window: float = 0.6  # smallest crop, as a fraction of the frame's height and width
    max_stretch: float = 1.2  # largest ratio of horizontal to vertical zoom, or its inverse
    photometric: PhotometricAugmentation = PhotometricAugmentation()


NO_RGB_AUGMENTATION = RGBAugmentation(
    flip_horizontal=0.0, reverse_time=0.0, zoom=0.0, photometric=NO_PHOTOMETRIC_AUGMENTATION
)


class PairedSequences:
    """The sequences of a dataset, each with the masks that are predicted for it."""

    def __init__(self, sequences: Sequences, masks: Sequences):
        self.sequences, self.masks = sequences, masks
        self.directory, self.split = sequences.directory, sequences.split

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The fields of both."""
        return {**self.sequences[index], **self.masks[index]}


def make_rgb_clip_loader(
    directory: str | os.PathLike,
    split: str,
    *,
    frames: int,
    height: int,
    width: int,
    train: bool,
    flow: str = "estimated",
    predicted: str | None = None,
    stride: int = 1,
    augmentation: RGBAugmentation | None = None,
    **batching: int,
) -> Loader:
    """Opens a split of a generated dataset as batches of RGB clips.

    Shuffling, the choice of frames and the order of batches are those of `make_clip_loader`.

    Args:
      height, width: of all fields of a batch.
      predicted: name of masks that launch/predict_masks.py stored with the dataset; None for
        batches without them.
      augmentation: of training clips (None: the defaults).
      directory, split, frames, train, flow, stride, batching: as `make_clip_loader`.

    Returns:
      The loader; its batches are `oclr_jax.types.RGBBatch`. With predicted masks, its settings
      have those of the masks under `predicted_masks`.

    Raises:
      UserError: as `make_clip_loader`; or the predicted masks are missing, unfinished, damaged, or
        of another version of the dataset.
    """
    fields = {**clip_fields(flow), "rgb": "video/frames"}
    sequences, settings = open_sequences(directory, split, fields)
    name = f"The dataset {directory}"
    check_clip_options(name, frames, settings["scene"]["frames"], STORED_GAPS, stride)
    if predicted is not None:
        masks, masks_settings = _open_predicted(directory, split, predicted)
        sequences = PairedSequences(sequences, masks)
        settings = {**settings, "predicted_masks": masks_settings}
    cut = {"frames": frames, "grid": (height, width)}
    if train:
        options = {"stride": stride, "augmentation": augmentation or RGBAugmentation()}
        make_clip = partial(rgb_training_clip, **options, **cut)
    else:
        make_clip = partial(rgb_validation_clip, **cut)
    return make_batches(sequences, settings, make_clip, train=train, **batching)


def _open_predicted(
    directory: str | os.PathLike, split: str, name: str
) -> tuple[Sequences, dict[str, object]]:
    """The masks `name` of a split, and their settings.

    Raises:
      UserError: there are none, they are unfinished or damaged, or of another dataset.
    """
    folder = predicted_masks_directory(directory, name)
    if not folder.exists():
        started = unfinished_directory(folder).exists()
        raise UserError(
            f"The predicted masks {name} of {directory} are "
            f"{'not finished' if started else 'missing'}; run `python launch/predict_masks.py "
            f"{directory} --name {name}`{' again, as it was started' if started else ''}."
        )
    fields = {"predicted": "probability", "predicted_order": "order"}
    masks, settings = open_sequences(folder, split, fields)
    if settings["dataset"] != dataset_identity(tfds.builder_from_directory(directory).info):
        raise UserError(
            f"The predicted masks in {folder} belong to another version of the dataset "
            f"({settings['dataset']['name']}/{settings['dataset']['config']} "
            f"{settings['dataset']['version']}, or the same with other settings); remove them and "
            "run launch/predict_masks.py again."
        )
    return masks, settings


def rgb_validation_clip(
    stored: dict[str, np.ndarray], *, frames: int, grid: tuple[int, int]
) -> RGBClip:
    """The first `frames` frames of a stored sequence on the grid (height, width)."""
    clip = _cut(stored, slice(frames))
    return drop_unseen(_crop(clip, (0, 0, *clip["flow"].shape[1:3]), grid))


def rgb_training_clip(
    stored: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    frames: int,
    grid: tuple[int, int],
    stride: int,
    augmentation: RGBAugmentation,
) -> RGBClip:
    """A random augmented clip of a stored sequence on the grid (height, width).

    It shows an object. Flips, reversal and crop are the same for all fields and frames; colours
    change alike in all frames.
    """
    clip = _cut(stored, random_frames(stored["segmentations"], rng, frames, stride))
    if rng.random() < augmentation.flip_horizontal:
        clip = _keeping_order(flip_horizontal, clip)
    if rng.random() < augmentation.flip_vertical:
        clip = _keeping_order(flip_vertical, clip)
    if rng.random() < augmentation.reverse_time:
        clip = reverse_time(clip)
    height, width = clip["flow"].shape[1:3]
    whole = window = (0, 0, height, width)
    if rng.random() < augmentation.zoom:
        window = random_window(
            rng, height, width, augmentation.min_window, augmentation.max_stretch
        )
    cropped = _crop(clip, window, grid)
    # A crop without objects teaches nothing.
    if window != whole and not visible_layers(cropped["modal"]).any():
        cropped = _crop(clip, whole, grid)
    cropped["rgb"] = change_colours(cropped["rgb"], cropped["modal"], rng, augmentation.photometric)
    return drop_unseen(cropped)


def _cut(stored: dict[str, np.ndarray], part: slice) -> RGBClip:
    """Frames of a stored sequence, each field on the grid on which it is stored."""
    clip = RGBClip(rgb=stored["rgb"][part], **cut_clip(stored, part))
    if "predicted" in stored:
        clip["predicted"] = stored["predicted"][part]
        clip["predicted_order"] = stored["predicted_order"][part]
    return clip


def _keeping_order(flip, clip: RGBClip) -> RGBClip:
    """Flips all fields that are images."""
    images = {name: value for name, value in clip.items() if name != "predicted_order"}
    return {**clip, **flip(images)}


def _crop(clip: RGBClip, window: tuple[int, int, int, int], grid: tuple[int, int]) -> RGBClip:
    """A window of all fields, resized to the grid (height, width).

    Args:
      clip: flow and masks on one grid, the other fields on their own.
      window: (top, left, rows, columns) on the grid of the flow. On that of the RGB frames it is
        rounded to whole pixels; where their size is a multiple of the flow's, nothing is rounded.
      grid: of the result.
    """
    top, left, rows, columns = window
    height, width = clip["flow"].shape[1:3]
    part = np.s_[:, top : top + rows, left : left + columns]
    scale = np.array(clip["rgb"].shape[1:3]) / (height, width)
    (y0, x0), (y1, x1) = (
        np.rint(np.array(corner) * scale).astype(int)
        for corner in ((top, left), (top + rows, left + columns))
    )
    cropped = RGBClip(
        rgb=_resize_each(clip["rgb"][:, y0:y1, x0:x1], *grid),
        flow=resize_flow(clip["flow"][part], *grid),
        amodal=resize_layers(clip["amodal"][part], *grid),
        modal=resize_layers(clip["modal"][part], *grid),
    )
    if "predicted" in clip:
        # First to the grid of the window, on which it can be cut.
        predicted = _resize_each(clip["predicted"], height, width)
        cropped["predicted"] = _resize_each(predicted[part], *grid)
        cropped["predicted_order"] = clip["predicted_order"]
    return cropped


def _resize_each(
    images: UInt8[np.ndarray, "t h w c"], height: int, width: int
) -> UInt8[np.ndarray, "t H W c"]:
    return np.stack([resize_image(np.ascontiguousarray(each), height, width) for each in images])

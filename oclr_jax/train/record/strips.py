"""Pictures of validation clips and pairs: input, ground truth and prediction.

A workdir has them as `strips/clip_<number>/<step>.png`.
"""

import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, UInt8

from oclr_jax.show.flow_color import color_scale, flow_to_rgb
from oclr_jax.show.grid import evenly_spaced, picture_grid
from oclr_jax.types import Batch, FlowBatch
from oclr_jax.video.palette import DAVIS_PALETTE
from oclr_jax.video.png import write_png

FRAMES = 6  # columns of a strip, evenly spaced over the clip
GAP = 2  # white pixels between pictures


def write_strip(
    workdir: epath.Path, clip: int, step: int, strip: UInt8[np.ndarray, "H W 3"]
) -> None:
    """Writes the picture of a validation clip, by its number, after a step."""
    write_png(os.fspath(_folder(workdir, clip) / f"{step:09d}.png"), strip)


def read_strip(workdir: epath.Path, clip: int, step: int) -> bytes:
    """The PNG that `write_strip` wrote."""
    return (_folder(workdir, clip) / f"{step:09d}.png").read_bytes()


def drawn_steps(workdir: epath.Path, clip: int) -> list[int]:
    """Steps after which the clip was drawn, in order."""
    return sorted(int(path.stem) for path in _folder(workdir, clip).glob("*.png"))


def _folder(workdir: epath.Path, clip: int) -> epath.Path:
    return workdir / "strips" / f"clip_{clip}"


def image_strip(batch: Batch, masks: dict[str, np.ndarray]) -> UInt8[np.ndarray, "H W 3"]:
    """The first clip of a batch as a grid of pictures.

    Rows: flow of the first gap; modal masks, true and predicted; amodal masks, true and predicted.
    Overlapping layers mix their colours. Predicted layers are in the model's order.

    Args:
      batch: the ground truth.
      masks: predicted binary `modal` and `amodal` masks, each `b t h w k`.
    """
    count = batch["flow"].shape[1]
    frames = evenly_spaced(count, FRAMES)
    rows = [[flow_to_rgb(frame[..., :2]) for frame in np.asarray(batch["flow"][0])[frames]]]
    for name in ("modal", "amodal"):
        rows.append(list(_layers(np.asarray(batch[name][0])[frames] > 0)))
        rows.append(list(_layers(np.asarray(masks[name][0])[frames] > 0)))
    return picture_grid(rows, gap=GAP)


def pair_strip(batch: FlowBatch, flow: Float[np.ndarray, "b h w 2"]) -> UInt8[np.ndarray, "H W 3"]:
    """The first pair of a batch as a row: both frames, true flow, predicted flow, and the
    estimated flow of the dataset where it has one."""
    flows = [batch["flow"], flow] + ([batch["estimated"]] if "estimated" in batch else [])
    flows = np.stack([np.asarray(each[0], np.float32) for each in flows])
    # One colour scale for all.
    longest = color_scale(flows[0])
    colored = [flow_to_rgb(each, longest) for each in flows]
    row = [np.asarray(batch["first"][0]), np.asarray(batch["second"][0]), *colored]
    return picture_grid([row], gap=GAP)


def mask_strip(
    frames: UInt8[np.ndarray, "t h w 3"], rows: Sequence[Bool[np.ndarray, "t h w k"]]
) -> UInt8[np.ndarray, "H W 3"]:
    """A clip as a grid of pictures: a row of frames, and a row for each array of masks."""
    shown = evenly_spaced(len(frames), FRAMES)
    pictures = [list(frames[shown])] + [list(_layers(masks[shown])) for masks in rows]
    return picture_grid(pictures, gap=GAP)


def _layers(masks: Bool[np.ndarray, "t h w k"]) -> UInt8[np.ndarray, "t h w 3"]:
    """Mean palette colour of the layers at each pixel; black without any."""
    colors = DAVIS_PALETTE[1 : 1 + masks.shape[-1]].astype(np.float32)
    count = masks.sum(axis=-1, keepdims=True)
    return (masks.astype(np.float32) @ colors / np.maximum(count, 1)).astype(np.uint8)

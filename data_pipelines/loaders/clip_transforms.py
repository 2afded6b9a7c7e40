"""Transforms of clips of flow and masks, each a small pure function.

Every transform changes all fields of a clip together, so they stay aligned. Flow channels are
(u, v) at gap +1, then at gap -1: (right, down) in pixels of the clip's own grid.
"""

from typing import TypedDict, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from oclr_jax.flow.resize import resize_flow


class FlowClip(TypedDict):
    """One example of a batch of `oclr_jax.types.Batch`.

    flow: (u, v) at gap +1, then at gap -1, in pixels of this grid.
    amodal: 0/1 masks of whole objects, front to back, empty layers last.
    modal: 0/1 masks of the visible parts of the same layers.
    """

    flow: Float32[np.ndarray, "t h w 4"]
    amodal: UInt8[np.ndarray, "t h w k"]
    modal: UInt8[np.ndarray, "t h w k"]


# A FlowClip, or a clip with further fields [t h w c] on the same grid.
AnyClip = TypeVar("AnyClip", bound=dict)


def flip_horizontal(clip: AnyClip) -> AnyClip:
    """Mirrors left and right; u changes sign."""
    flipped = {name: value[:, :, ::-1] for name, value in clip.items()}
    return {**flipped, "flow": flipped["flow"] * np.array([-1, 1, -1, 1], np.float32)}


def flip_vertical(clip: AnyClip) -> AnyClip:
    """Mirrors top and bottom; v changes sign."""
    flipped = {name: value[:, ::-1] for name, value in clip.items()}
    return {**flipped, "flow": flipped["flow"] * np.array([1, -1, 1, -1], np.float32)}


def reverse_time(clip: AnyClip) -> AnyClip:
    """Plays the clip backwards; the flows at gaps +1 and -1 are swapped."""
    reversed_ = {name: value[::-1] for name, value in clip.items()}
    return {**reversed_, "flow": reversed_["flow"][..., [2, 3, 0, 1]]}


def scale_speed(clip: FlowClip, factor: float) -> FlowClip:
    """Scales all flow, as if the frame rate had changed; masks are unchanged."""
    return {**clip, "flow": clip["flow"] * np.float32(factor)}


def random_window(
    rng: np.random.Generator, height: int, width: int, min_window: float, max_stretch: float
) -> tuple[int, int, int, int]:
    """A random crop (top, left, rows, columns) of the grid, with a random aspect ratio."""
    size = rng.uniform(min_window, 1)
    limit = np.log(max_stretch) / 2
    stretch = np.exp(rng.uniform(-limit, limit))
    rows = min(height, max(1, round(height * min(1.0, size * stretch))))
    columns = min(width, max(1, round(width * min(1.0, size / stretch))))
    top = int(rng.integers(height - rows + 1))
    left = int(rng.integers(width - columns + 1))
    return top, left, rows, columns


def crop_zoom(clip: FlowClip, window: tuple[int, int, int, int]) -> FlowClip:
    """Resizes a crop (top, left, rows, columns) of the clip to the clip's whole grid."""
    top, left, rows, columns = window
    height, width = clip["flow"].shape[1:3]
    part = np.s_[:, top : top + rows, left : left + columns]
    return resize_clip({name: value[part] for name, value in clip.items()}, height, width)


def resize_clip(clip: FlowClip, height: int, width: int) -> FlowClip:
    """Resizes a clip; flow values scale with the grid, masks are nearest neighbours."""
    if clip["flow"].shape[1:3] == (height, width):
        return clip
    return FlowClip(
        flow=resize_flow(clip["flow"], height, width),
        amodal=resize_layers(clip["amodal"], height, width),
        modal=resize_layers(clip["modal"], height, width),
    )


def resize_layers(
    masks: UInt8[np.ndarray, "t h w k"], height: int, width: int
) -> UInt8[np.ndarray, "t H W k"]:
    """Resizes masks to the pixel under each new pixel's centre."""
    h, w = masks.shape[1:3]
    rows = (2 * np.arange(height) + 1) * h // (2 * height)
    columns = (2 * np.arange(width) + 1) * w // (2 * width)
    return masks[:, rows[:, None], columns]


def random_camera(
    rng: np.random.Generator, frames: int, pan: float, shear: float
) -> Float32[np.ndarray, "s 2 3"]:
    """Random smooth affine camera motion for `add_camera`; s = frames + 1.

    Args:
      pan: px per frame; largest pan along each axis.
      shear: px per frame; largest zoom, rotation or shear at the grid's border.
    """
    largest = np.array([pan, shear, shear])
    first, last = rng.uniform(-largest, largest, (2, 2, 3))
    share = np.linspace(0, 1, frames + 1)[:, None, None]
    return ((1 - share) * first + share * last).astype(np.float32)


def add_camera(clip: FlowClip, camera: Float32[np.ndarray, "s 2 3"]) -> FlowClip:
    """Adds the flow of an affine camera motion everywhere.

    Args:
      clip: t frames.
      camera: [t + 1, (u, v), (1, x, y)]: row i holds the coefficients of the motion from frame
        i - 1 to frame i, in px, with x and y from -1 to 1 across the grid.
    """
    height, width = clip["flow"].shape[1:3]
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    pan, along_x, along_y = np.moveaxis(np.concatenate([camera[1:], -camera[:-1]], 1), 2, 0)
    rows = (pan[:, None] + along_x[:, None] * x[:, None]).astype(np.float32)
    columns = (along_y[:, None] * y[:, None]).astype(np.float32)
    flow = clip["flow"] + rows[:, None] + columns[:, :, None]
    return {**clip, "flow": flow}


def drop_unseen(clip: AnyClip) -> AnyClip:
    """Empties the layers that are never visible and moves them behind the others."""
    seen = visible_layers(clip["modal"])
    if seen.all():
        return clip
    order = np.argsort(~seen, kind="stable")
    keep = seen[order].astype(np.uint8)
    layers = {name: clip[name][..., order] * keep for name in ("amodal", "modal")}
    return {**clip, **layers}


def visible_layers(modal: UInt8[np.ndarray, "t h w k"]) -> Bool[np.ndarray, " k"]:
    """Whether each layer is visible anywhere in the clip."""
    t, h, w, k = modal.shape
    # Rows first: one pass over long contiguous rows is several times faster than `any` at once.
    return modal.reshape(t * h, w * k).max(axis=0).reshape(w, k).any(axis=0)

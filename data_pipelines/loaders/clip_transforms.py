"""Changes to a clip of flow and masks, each a small pure function, and the training augmentation.

Flow and masks of a clip change together, so that the masks stay those of what moves. Channels of
the flow are (u, v) of gap +1, then of gap -1: (right, down) in pixels of the clip's own grid.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from oclr_jax.flow.resize import resize_flow


class Clip(TypedDict):
    """One example of a batch.

    flow: both gaps, (u+1, v+1, u-1, v-1), pixels of this grid.
    amodal: 0/1 masks of whole objects, front to back, empty layers last.
    modal: 0/1 visible parts of the same layers.
    """

    flow: Float32[np.ndarray, "t h w 4"]
    amodal: UInt8[np.ndarray, "t h w k"]
    modal: UInt8[np.ndarray, "t h w k"]


@dataclass(frozen=True)
class Augmentation:
    """How training clips are varied; every range is drawn from evenly unless said otherwise."""

    flip_horizontal: float = 0.5  # share of clips
    flip_vertical: float = 0.0  # share of clips; gravity and the camera's height are cues
    reverse_time: float = 0.5  # share of clips
    zoom: float = 0.5  # share of clips that are cropped and zoomed into
    min_window: float = 0.6  # smallest crop, as a share of the grid's height and width
    max_stretch: float = 1.2  # largest ratio of the horizontal to the vertical zoom, or inverse
    min_speed: float = 0.5  # least factor on all flow; drawn log-uniformly
    max_speed: float = 2.0  # largest factor on all flow
    camera: float = 0.3  # share of clips that get additional camera motion
    camera_pan: float = 3.0  # px per frame; largest additional pan along each axis
    camera_shear: float = 2.0  # px per frame; its largest zoom, turn or shear, at the grid's border


NO_AUGMENTATION = Augmentation(
    flip_horizontal=0.0, reverse_time=0.0, zoom=0.0, min_speed=1.0, max_speed=1.0, camera=0.0
)


def augment(clip: Clip, rng: np.random.Generator, settings: Augmentation) -> Clip:
    """A random variation of a clip, on the same grid; at least one object stays visible."""
    if rng.random() < settings.flip_horizontal:
        clip = flip_horizontal(clip)
    if rng.random() < settings.flip_vertical:
        clip = flip_vertical(clip)
    if rng.random() < settings.reverse_time:
        clip = reverse_time(clip)
    if rng.random() < settings.zoom:
        window = random_window(rng, *clip["flow"].shape[1:3], settings)
        zoomed = crop_zoom(clip, window)
        # A window that shows no object teaches nothing.
        clip = zoomed if visible_layers(zoomed["modal"]).any() else clip
    low, high = np.log([settings.min_speed, settings.max_speed])
    clip = scale_speed(clip, float(np.exp(rng.uniform(low, high))))
    if rng.random() < settings.camera:
        clip = add_camera(clip, random_camera(rng, len(clip["flow"]), settings))
    return drop_unseen(clip)


def flip_horizontal(clip: Clip) -> Clip:
    """Left and right exchanged; u changes its sign."""
    flow = clip["flow"][:, :, ::-1] * np.array([-1, 1, -1, 1], np.float32)
    return Clip(flow=flow, amodal=clip["amodal"][:, :, ::-1], modal=clip["modal"][:, :, ::-1])


def flip_vertical(clip: Clip) -> Clip:
    """Top and bottom exchanged; v changes its sign."""
    flow = clip["flow"][:, ::-1] * np.array([1, -1, 1, -1], np.float32)
    return Clip(flow=flow, amodal=clip["amodal"][:, ::-1], modal=clip["modal"][:, ::-1])


def reverse_time(clip: Clip) -> Clip:
    """The clip backwards: the frame after becomes the frame before, so the gaps change places."""
    flow = clip["flow"][::-1][..., [2, 3, 0, 1]]
    return Clip(flow=flow, amodal=clip["amodal"][::-1], modal=clip["modal"][::-1])


def scale_speed(clip: Clip, factor: float) -> Clip:
    """All motion faster or slower; the masks stay, as if the frame rate had changed."""
    return Clip(flow=clip["flow"] * np.float32(factor), amodal=clip["amodal"], modal=clip["modal"])


def random_window(
    rng: np.random.Generator, height: int, width: int, settings: Augmentation
) -> tuple[int, int, int, int]:
    """A window (top, left, rows, columns) of the grid, somewhat stretched, anywhere inside."""
    size = rng.uniform(settings.min_window, 1)
    limit = np.log(settings.max_stretch) / 2
    stretch = np.exp(rng.uniform(-limit, limit))
    rows = min(height, max(1, round(height * min(1.0, size * stretch))))
    columns = min(width, max(1, round(width * min(1.0, size / stretch))))
    top = int(rng.integers(height - rows + 1))
    left = int(rng.integers(width - columns + 1))
    return top, left, rows, columns


def crop_zoom(clip: Clip, window: tuple[int, int, int, int]) -> Clip:
    """A window (top, left, rows, columns) of the clip, stretched to the clip's whole grid."""
    top, left, rows, columns = window
    height, width = clip["flow"].shape[1:3]
    part = np.s_[:, top : top + rows, left : left + columns]
    cut = Clip(flow=clip["flow"][part], amodal=clip["amodal"][part], modal=clip["modal"][part])
    return resize_clip(cut, height, width)


def resize_clip(clip: Clip, height: int, width: int) -> Clip:
    """A clip on another grid; flow values scale with it, masks are taken by nearest neighbour."""
    if clip["flow"].shape[1:3] == (height, width):
        return clip
    return Clip(
        flow=resize_flow(clip["flow"], height, width),
        amodal=_resize_masks(clip["amodal"], height, width),
        modal=_resize_masks(clip["modal"], height, width),
    )


def _resize_masks(
    masks: UInt8[np.ndarray, "t h w k"], height: int, width: int
) -> UInt8[np.ndarray, "t H W k"]:
    # The pixel under each new pixel's centre.
    h, w = masks.shape[1:3]
    rows = (2 * np.arange(height) + 1) * h // (2 * height)
    columns = (2 * np.arange(width) + 1) * w // (2 * width)
    return masks[:, rows[:, None], columns]


def random_camera(
    rng: np.random.Generator, frames: int, settings: Augmentation
) -> Float32[np.ndarray, "s 2 3"]:
    """Smooth affine camera motion for `add_camera`, one for each of the frames + 1 steps."""
    largest = np.array([settings.camera_pan, settings.camera_shear, settings.camera_shear])
    first, last = rng.uniform(-largest, largest, (2, 2, 3))
    share = np.linspace(0, 1, frames + 1)[:, None, None]
    return ((1 - share) * first + share * last).astype(np.float32)


def add_camera(clip: Clip, camera: Float32[np.ndarray, "s 2 3"]) -> Clip:
    """Adds the flow of a camera that pans, zooms and turns, to everything alike.

    Args:
      clip: of t frames.
      camera: [t + 1, (u, v), (1, x, y)]: row i holds the coefficients of the motion from frame
        i - 1 to frame i, in px, with x and y from -1 to 1 across the grid.
    """
    height, width = clip["flow"].shape[1:3]
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    pan, along_x, along_y = np.moveaxis(np.concatenate([camera[1:], -camera[:-1]], 1), 2, 0)
    rows = (pan[:, None] + along_x[:, None] * x[:, None]).astype(np.float32)
    columns = (along_y[:, None] * y[:, None]).astype(np.float32)
    flow = clip["flow"] + rows[:, None] + columns[:, :, None]
    return Clip(flow=flow, amodal=clip["amodal"], modal=clip["modal"])


def drop_unseen(clip: Clip) -> Clip:
    """Empties the layers that are never visible, and moves them behind the others."""
    seen = visible_layers(clip["modal"])
    if seen.all():
        return clip
    order = np.argsort(~seen, kind="stable")
    keep = seen[order].astype(np.uint8)
    return Clip(
        flow=clip["flow"],
        amodal=clip["amodal"][..., order] * keep,
        modal=clip["modal"][..., order] * keep,
    )


def visible_layers(modal: UInt8[np.ndarray, "t h w k"]) -> Bool[np.ndarray, " k"]:
    """Whether each layer is visible anywhere in the clip."""
    t, h, w, k = modal.shape
    # Rows first: one pass over long contiguous rows is several times faster than `any` at once.
    return modal.reshape(t * h, w * k).max(axis=0).reshape(w, k).any(axis=0)

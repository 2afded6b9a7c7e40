"""Transforms of clips of flow and masks, each a small pure function, and the augmentation.

Every transform changes all fields of a clip together, so they stay aligned. Flow channels are
(u, v) at gap +1, then at gap -1: (right, down) in pixels of the clip's own grid.
"""

from dataclasses import dataclass
from typing import TypedDict, TypeVar

import cv2
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


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training clips; values are drawn uniformly unless stated otherwise."""

    flip_horizontal: float = 0.5  # probability
    flip_vertical: float = 0.0  # probability; gravity and the camera's height are cues
    reverse_time: float = 0.5  # probability
    zoom: float = 0.5  # probability of a crop that is resized to the whole grid
    min_window: float = 0.6  # smallest crop, as a fraction of the grid's height and width
    max_stretch: float = 1.2  # largest ratio of horizontal to vertical zoom, or its inverse
    min_speed: float = 0.5  # smallest factor on all flow; log-uniform
    max_speed: float = 2.0  # largest factor on all flow
    camera: float = 0.3  # probability of additional camera motion
    camera_pan: float = 3.0  # px per frame; largest additional pan along each axis
    camera_shear: float = 2.0  # px per frame; largest zoom, rotation or shear at the grid's border
    rest: float = 0.0  # probability that a part of an object rests for some frames; `rest_part`


NO_AUGMENTATION = Augmentation(
    flip_horizontal=0.0, reverse_time=0.0, zoom=0.0, min_speed=1.0, max_speed=1.0, camera=0.0
)


def augment(clip: FlowClip, rng: np.random.Generator, settings: Augmentation) -> FlowClip:
    """A random variation of a clip on the same grid, with at least one object visible."""
    if rng.random() < settings.flip_horizontal:
        clip = flip_horizontal(clip)
    if rng.random() < settings.flip_vertical:
        clip = flip_vertical(clip)
    if rng.random() < settings.reverse_time:
        clip = reverse_time(clip)
    if rng.random() < settings.zoom:
        grid = clip["flow"].shape[1:3]
        window = random_window(rng, *grid, settings.min_window, settings.max_stretch)
        zoomed = crop_zoom(clip, window)
        # A crop without objects teaches nothing.
        clip = zoomed if visible_layers(zoomed["modal"]).any() else clip
    if rng.random() < settings.rest:
        clip = rest_part(clip, rng)
    low, high = np.log([settings.min_speed, settings.max_speed])
    clip = scale_speed(clip, float(np.exp(rng.uniform(low, high))))
    if rng.random() < settings.camera:
        clip = add_camera(clip, random_camera(rng, len(clip["flow"]), settings))
    return drop_unseen(clip)


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
    rng: np.random.Generator, frames: int, settings: Augmentation
) -> Float32[np.ndarray, "s 2 3"]:
    """Random smooth affine camera motion for `add_camera`; s = frames + 1."""
    largest = np.array([settings.camera_pan, settings.camera_shear, settings.camera_shear])
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


def rest_part(clip: FlowClip, rng: np.random.Generator) -> FlowClip:
    """Lets a part of a random object, or all of it, rest for up to half of the clip.

    Its flow becomes that of the background, an affine motion and its deviations elsewhere; masks
    stay. What it belongs to is then only seen in other frames.
    """
    frames, height, width = clip["flow"].shape[:3]
    layers = np.flatnonzero(visible_layers(clip["modal"]))
    if not len(layers):
        return clip
    modal = clip["modal"][..., rng.choice(layers)].astype(bool)
    background = ~clip["modal"].any(axis=-1)
    count = int(rng.integers(1, max(2, frames // 2 + 1)))
    first = int(rng.integers(frames - count + 1))
    angle, edge = rng.uniform(0, 2 * np.pi), rng.uniform(-2.5, 1.0)
    shift = rng.integers([height, width])
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    along = np.cos(angle) * x * (width / height) + np.sin(angle) * y
    basis = np.stack([np.ones_like(x), x, y], -1)
    flow = clip["flow"].copy()
    for t in range(first, first + count):
        if not modal[t].any() or background[t].mean() < 0.1:
            continue
        inside = along[modal[t]]
        # The edge of the part, in standard deviations from the middle of the object.
        part = modal[t] & (along >= inside.mean() + edge * inside.std())
        known = background[t][::2, ::2]
        points, values = basis[::2, ::2][known], flow[t, ::2, ::2][known]
        motion = np.linalg.solve(
            points.T @ points + 1e-3 * np.eye(3, dtype=np.float32), points.T @ values
        )
        camera = basis @ motion
        noise = np.where(background[t][..., None], flow[t] - camera, 0)
        # Estimated flow spills over outlines, which would give the part away.
        part = cv2.dilate(part.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
        part &= background[t] | modal[t]
        flow[t][part] = (camera + np.roll(noise, shift, axis=(0, 1)))[part]
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

"""Frame pairs with the flow between them, and their augmentation for training.

The augmentation is RAFT's (Teed and Deng, ECCV 2020, section 3.4 and supplement: photometric
changes, random scale and stretch, occluding rectangles, crops), plus sensor noise.
"""

from dataclasses import dataclass
from typing import TypedDict

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from oclr_jax.flow.resize import resize_flow
from oclr_jax.video.resize import resize_image


class FramePair(TypedDict):
    """Two frames and the flow between them.

    first, second: RGB.
    flow: of every pixel of `first` to `second`, (u, v) = (right, down) in pixels.
    valid: where the flow is known.
    """

    first: UInt8[np.ndarray, "h w 3"]
    second: UInt8[np.ndarray, "h w 3"]
    flow: Float32[np.ndarray, "h w 2"]
    valid: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class PairAugmentation:
    """Augmentation of training pairs; values are drawn uniformly unless stated otherwise."""

    brightness: float = 0.4  # largest relative change
    contrast: float = 0.4  # largest relative change
    saturation: float = 0.4  # largest relative change
    hue: float = 0.16  # largest rotation, as a fraction of the colour circle
    asymmetric: float = 0.2  # probability that each frame gets its own change of colours
    noise: float = 5.0  # largest standard deviation of the noise of a frame, in grey levels
    scaled: float = 0.8  # probability of another scale
    min_scale: float = 0.9  # smallest scale; log-uniform
    max_scale: float = 1.6  # largest scale
    stretch: float = 1.15  # largest additional factor on one axis, or its inverse
    flip_horizontal: float = 0.5  # probability
    flip_vertical: float = 0.1  # probability
    erased: float = 0.5  # probability that rectangles cover parts of the second frame
    max_erased: float = 0.25  # longest side of such a rectangle, as a fraction of frame height


def augment_pair(
    pair: FramePair, rng: np.random.Generator, crop: tuple[int, int], settings: PairAugmentation
) -> FramePair:
    """A random variation of a pair, cropped to (rows, columns).

    Raises:
      ValueError: the crop is larger than the frames.
    """
    pair = _scaled(pair, rng, crop, settings)
    rows, columns = crop
    height, width = pair["valid"].shape
    top = int(rng.integers(height - rows + 1))
    left = int(rng.integers(width - columns + 1))
    part = np.s_[top : top + rows, left : left + columns]
    pair = FramePair(**{name: value[part] for name, value in pair.items()})
    if rng.random() < settings.flip_horizontal:
        pair = flip_pair(pair, axis=1)
    if rng.random() < settings.flip_vertical:
        pair = flip_pair(pair, axis=0)
    first, second = _recolored(pair["first"], pair["second"], rng, settings)
    if rng.random() < settings.erased:
        second = _erased(second, rng, settings)
    first, second = (_noisy(frame, rng, settings) for frame in (first, second))
    return FramePair(
        first=first,
        second=second,
        flow=np.ascontiguousarray(pair["flow"]),
        valid=np.ascontiguousarray(pair["valid"]),
    )


def flip_pair(pair: FramePair, axis: int) -> FramePair:
    """Mirrors top and bottom (axis 0) or left and right (axis 1), the flow with it."""
    sign = np.array([1, -1] if axis == 0 else [-1, 1], np.float32)
    flipped = {name: np.flip(value, axis) for name, value in pair.items()}
    return FramePair(**flipped | {"flow": flipped["flow"] * sign})


def scale_pair(pair: FramePair, height: int, width: int) -> FramePair:
    """Resizes a pair, the flow with it; flow interpolated from unknown flow is unknown."""
    known = resize_image(pair["valid"].astype(np.float32), height, width)
    return FramePair(
        first=resize_image(np.ascontiguousarray(pair["first"]), height, width),
        second=resize_image(np.ascontiguousarray(pair["second"]), height, width),
        flow=resize_flow(np.ascontiguousarray(pair["flow"]), height, width),
        valid=known > 0.999,
    )


def _scaled(
    pair: FramePair, rng: np.random.Generator, crop: tuple[int, int], settings: PairAugmentation
) -> FramePair:
    height, width = pair["valid"].shape
    if crop[0] > height or crop[1] > width:
        raise ValueError(f"a crop of {crop} does not fit into frames of {height}x{width}")
    if rng.random() >= settings.scaled:
        return pair
    scale = np.exp(rng.uniform(np.log(settings.min_scale), np.log(settings.max_scale)))
    limit = np.log(settings.stretch)
    rows = max(crop[0], round(height * scale * np.exp(rng.uniform(-limit, limit))))
    columns = max(crop[1], round(width * scale * np.exp(rng.uniform(-limit, limit))))
    return scale_pair(pair, rows, columns)


def _recolored(
    first: UInt8[np.ndarray, "h w 3"],
    second: UInt8[np.ndarray, "h w 3"],
    rng: np.random.Generator,
    settings: PairAugmentation,
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]:
    """Changes the colours of both frames in the same way, or of each in its own."""
    if rng.random() < settings.asymmetric:
        return tuple(_with_colors(frame, _draw_colors(rng, settings)) for frame in (first, second))
    colors = _draw_colors(rng, settings)
    return _with_colors(first, colors), _with_colors(second, colors)


def _draw_colors(rng: np.random.Generator, settings: PairAugmentation) -> np.ndarray:
    """Factors of brightness, contrast and saturation, and the rotation of the hue."""
    largest = np.array([settings.brightness, settings.contrast, settings.saturation, settings.hue])
    return rng.uniform(-largest, largest) + [1, 1, 1, 0]


def _with_colors(frame: UInt8[np.ndarray, "h w 3"], colors: np.ndarray) -> np.ndarray:
    brightness, contrast, saturation, hue = colors.astype(np.float32)
    values = frame.astype(np.float32) * brightness
    mean = values.mean()
    values = (values - mean) * contrast + mean
    grey = values @ np.array([0.299, 0.587, 0.114], np.float32)
    values = grey[..., None] + (values - grey[..., None]) * saturation
    hsv = cv2.cvtColor(np.clip(values, 0, 255) / np.float32(255), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 360 * hue) % 360
    return np.rint(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255).clip(0, 255).astype(np.uint8)


def _erased(
    frame: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, settings: PairAugmentation
) -> UInt8[np.ndarray, "h w 3"]:
    """Fills one or two rectangles with the mean colour, so that what was there is occluded."""
    height, width = frame.shape[:2]
    covered = frame.copy()
    for _ in range(int(rng.integers(1, 3))):
        rows, columns = rng.uniform(0.1, 1.0, 2) * settings.max_erased * height
        top, left = rng.uniform(0, height), rng.uniform(0, width)
        covered[int(top) : int(top + rows), int(left) : int(left + columns)] = frame.mean((0, 1))
    return covered


def _noisy(
    frame: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator, settings: PairAugmentation
) -> UInt8[np.ndarray, "h w 3"]:
    deviation = np.float32(rng.uniform(0, settings.noise))
    noise = rng.standard_normal(frame.shape, np.float32) * deviation
    return np.rint(frame + noise).clip(0, 255).astype(np.uint8)

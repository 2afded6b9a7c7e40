"""Photometric augmentation of clips: colours of objects and frames, blur and noise.

Rendered objects come from other photographs than what is around them, so their colours give them
away. In real video they do not.
"""

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # weights of R, G and B


@dataclass(frozen=True)
class PhotometricAugmentation:
    """Augmentation of the frames of training clips; values are drawn uniformly."""

    harmonize: float = 0.5  # probability that an object takes on the colours of the background
    recolour: float = 0.3  # probability that the colours of an object change
    colour: float = 0.8  # probability that the colours of all frames change
    max_gain: float = 0.4  # largest change of brightness, contrast and saturation, as a fraction
    max_tint: float = 0.1  # largest change of each colour channel, as a fraction
    grey: float = 0.1  # probability of frames without colour
    blur: float = 0.3  # probability of blur
    max_blur: float = 1.0  # pixels of the grid; largest standard deviation of the blur
    noise: float = 0.3  # probability of noise
    max_noise: float = 10.0  # of 255; largest standard deviation of the noise


NO_PHOTOMETRIC_AUGMENTATION = PhotometricAugmentation(
    harmonize=0.0, recolour=0.0, colour=0.0, grey=0.0, blur=0.0, noise=0.0
)


class ColourChange(NamedTuple):
    """A change of colour; 1 changes nothing."""

    brightness: float
    contrast: float
    saturation: float
    tint: Float32[np.ndarray, " 3"]


def change_colours(
    rgb: UInt8[np.ndarray, "t h w 3"],
    modal: UInt8[np.ndarray, "t h w k"],
    rng: np.random.Generator,
    settings: PhotometricAugmentation,
) -> UInt8[np.ndarray, "t h w 3"]:
    """A random variation of a clip's frames; all but the noise is the same in each of them.

    Args:
      rgb: the frames.
      modal: 0/1 masks of the visible parts of the objects.
      rng: of the values that are drawn.
      settings: probabilities and amounts.
    """
    frames = rgb.astype(np.float32)
    background = ~modal.any(axis=-1)
    for mask in np.moveaxis(modal > 0, -1, 0):
        if not mask.any() or not background.any():
            continue
        changed = frames
        if rng.random() < settings.harmonize:
            share = rng.uniform(0.5, 1.0)
            changed = _move_colours(changed, frames[mask], frames[background], share)
        if rng.random() < settings.recolour:
            changed = _change(changed, _random_change(rng, settings))
        frames = frames + _soft_cover(mask) * (changed - frames)
    if rng.random() < settings.colour:
        frames = _change(frames, _random_change(rng, settings))
    if rng.random() < settings.grey:
        frames = np.repeat((frames @ _LUMINANCE)[..., None], 3, axis=-1)
    if rng.random() < settings.blur:
        sigma = max(rng.random() * settings.max_blur, 0.1)
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])
    if rng.random() < settings.noise:
        sigma = np.float32(rng.random() * settings.max_noise)
        frames = frames + sigma * rng.standard_normal(frames.shape, dtype=np.float32)
    return np.rint(np.clip(frames, 0, 255)).astype(np.uint8)


def _random_change(rng: np.random.Generator, settings: PhotometricAugmentation) -> ColourChange:
    brightness, contrast, saturation = 1 + settings.max_gain * rng.uniform(-1, 1, 3)
    tint = 1 + settings.max_tint * rng.uniform(-1, 1, 3).astype(np.float32)
    return ColourChange(float(brightness), float(contrast), float(saturation), tint)


def _change(
    colours: Float32[np.ndarray, "*n 3"], change: ColourChange
) -> Float32[np.ndarray, "*n 3"]:
    """Contrast and saturation are changed about the mean luminance and about that of each pixel."""
    luminance = (colours @ _LUMINANCE)[..., None]
    colours = luminance + (colours - luminance) * change.saturation
    colours = luminance.mean() + (colours - luminance.mean()) * change.contrast
    return colours * change.brightness * change.tint


def _move_colours(
    colours: Float32[np.ndarray, "*n 3"],
    source: Float32[np.ndarray, "s 3"],
    target: Float32[np.ndarray, "d 3"],
    share: float,
) -> Float32[np.ndarray, "*n 3"]:
    """Moves colours by `share` of the way from the source's mean and deviation to the target's."""
    mean, deviation = source.mean(axis=0), source.std(axis=0) + 1
    aim_mean = mean + share * (target.mean(axis=0) - mean)
    aim_deviation = deviation + share * (target.std(axis=0) + 1 - deviation)
    return aim_mean + (colours - mean) * (aim_deviation / deviation)


def _soft_cover(mask: Bool[np.ndarray, "t h w"]) -> Float32[np.ndarray, "t h w 1"]:
    """The mask with a soft outline: pixels there are mixed of both sides."""
    cover = mask.astype(np.float32)
    return np.stack([cv2.GaussianBlur(each, (0, 0), 0.7) for each in cover])[..., None]

"""Procedural textures with the statistics of natural images: a 1/f spectrum, regions, edges."""

import cv2
import numpy as np
import scipy.fft
from jaxtyping import Float32, UInt8


def power_noise(
    rng: np.random.Generator, height: int, width: int, exponent: float
) -> Float32[np.ndarray, "h w"]:
    """Gaussian noise with amplitude spectrum 1 / f^exponent, zero mean and unit deviation.

    Natural images have an exponent near 1 (Field, 1987).
    """
    size = (scipy.fft.next_fast_len(height, real=True), scipy.fft.next_fast_len(width, real=True))
    spectrum = scipy.fft.rfft2(rng.standard_normal(size, dtype=np.float32))
    fy = np.fft.fftfreq(size[0]).astype(np.float32)[:, None] * size[0]
    fx = np.fft.rfftfreq(size[1]).astype(np.float32)[None] * size[0]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    spectrum *= frequency**-exponent
    spectrum[0, 0] = 0.0
    noise = scipy.fft.irfft2(spectrum, s=size)[:height, :width]
    return ((noise - noise.mean()) / max(float(noise.std()), 1e-6)).astype(np.float32)


def texture(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """One opaque RGB image: coloured regions with soft or sharp borders, each with its own grain.

    Some regions are nearly plain, as sky and paint are: an optical-flow estimator must meet the
    places where it fails.
    """
    regions = int(rng.integers(2, 7))
    layout = power_noise(rng, height, width, exponent=rng.uniform(1.2, 2.2))
    grain = power_noise(rng, height, width, exponent=rng.uniform(0.6, 1.3))
    shade = power_noise(rng, height, width, exponent=1.8)
    # Colours differ in brightness first and in hue second, as those of photographs do.
    base = rng.uniform(40, 215) + rng.normal(0, 25, 3)
    spread = rng.uniform(15, 60)
    palette = base + rng.normal(0, spread, (regions, 1)) + rng.normal(0, 0.4 * spread, (regions, 3))
    palette = np.clip(palette, 5, 250)
    strength = rng.choice([1.0, 4.0, 12.0, 25.0], regions, p=[0.15, 0.3, 0.35, 0.2])
    edges = np.quantile(layout[::4, ::4], np.linspace(0, 1, regions + 1)[1:-1])
    labels = np.digitize(layout, edges)
    colour = palette.astype(np.float32)[labels]
    softness = rng.uniform(0, 3)
    if softness > 0.5:
        colour = cv2.GaussianBlur(colour, (0, 0), softness)
    tint = (1 + 0.15 * rng.standard_normal(3)).astype(np.float32)
    relief = grain * strength.astype(np.float32)[labels] + shade * np.float32(rng.uniform(0, 18))
    image = np.clip(colour + relief[..., None] * tint, 0, 255).astype(np.uint8)
    _draw_edges(rng, image)
    # A lens passes little at the finest scale; without this, moved pixels would alias.
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.0))


def _draw_edges(rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Adds straight and curved strokes: the sharp, oriented edges that noise does not have."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, 9))):
        colour = tuple(int(c) for c in np.clip(rng.uniform(0, 255) + rng.normal(0, 25, 3), 0, 255))
        start = rng.uniform(0, 1, 2) * (width, height)
        steps = rng.normal(0, 0.12 * height, (int(rng.integers(1, 6)), 2))
        line = np.round(np.concatenate([start[None], start + np.cumsum(steps, 0)])).astype(np.int32)
        thickness = int(rng.integers(1, max(2, height // 40)))
        cv2.polylines(image, [line], bool(rng.random() < 0.3), colour, thickness, cv2.LINE_AA)

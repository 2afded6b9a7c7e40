"""Procedural textures with statistics of natural images: a 1/f spectrum, regions, edges."""

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
    """Samples an RGB image: coloured regions with soft or sharp borders, each with its own grain.

    Some regions are nearly textureless, so that optical-flow estimators fail as in real videos.
    """
    regions = int(rng.integers(2, 7))
    layout = power_noise(rng, height, width, exponent=rng.uniform(1.2, 2.2))
    grain = power_noise(rng, height, width, exponent=rng.uniform(0.6, 1.3))
    shade = power_noise(rng, height, width, exponent=1.8)
    # As in photographs, colours differ more in brightness than in hue.
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
    # As a lens does, this removes the finest scale, which would alias under motion.
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 1.0))


def add_plain_region(
    rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Adds a nearly textureless region above or below an uneven line, such as sky or road.

    Optical flow cannot be estimated there, and real videos often have such regions.
    """
    height, width = image.shape[:2]
    course = np.cumsum(rng.normal(0, 1, width // 8 + 2))
    course = cv2.GaussianBlur(course[None], (0, 0), rng.uniform(1, 12))[0]
    course = (course - course.mean()) * rng.uniform(0, 0.02) * height
    line = height * rng.uniform(0.25, 0.75) + np.interp(
        np.arange(width) / 8, range(len(course)), course
    )
    above = rng.random() < 0.6
    depth = (line - np.arange(height)[:, None]) * (1 if above else -1)
    weight = np.clip(depth / rng.uniform(1, 12) + 0.5, 0, 1).astype(np.float32)[..., None]
    # A brightness ramp over the rows and a hue near grey.
    ramp = np.linspace(0, rng.normal(0, 25), height)[:, None, None]
    tone = np.clip(rng.uniform(40, 240) + ramp + rng.normal(0, 12, 3), 0, 255).astype(np.float32)
    return np.rint(weight * tone + (1 - weight) * image).astype(np.uint8)


def jitter_colours(
    rng: np.random.Generator, images: UInt8[np.ndarray, "t h w 3"]
) -> UInt8[np.ndarray, "t h w 3"]:
    """Changes contrast, brightness and colour balance of all images in the same random way."""
    gain = rng.uniform(0.7, 1.3) * (1 + 0.08 * rng.standard_normal(3))
    offset = rng.uniform(-30, 30) + 128 - 128 * gain.mean()
    levels = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
    return np.stack([levels[images[..., channel], channel] for channel in range(3)], -1)


def _draw_edges(rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Draws straight and curved strokes: sharp oriented edges, which noise does not have."""
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(0, 9))):
        colour = tuple(int(c) for c in np.clip(rng.uniform(0, 255) + rng.normal(0, 25, 3), 0, 255))
        start = rng.uniform(0, 1, 2) * (width, height)
        steps = rng.normal(0, 0.12 * height, (int(rng.integers(1, 6)), 2))
        line = np.round(np.concatenate([start[None], start + np.cumsum(steps, 0)])).astype(np.int32)
        thickness = int(rng.integers(1, max(2, height // 40)))
        cv2.polylines(image, [line], bool(rng.random() < 0.3), colour, thickness, cv2.LINE_AA)

"""Optical flow as an RGB picture: hue is direction, saturation is length."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.ops.color_wheel import color_wheel

_STEPS = 1024
_WHEEL = color_wheel(_STEPS)


def color_scale(flow: Float32[np.ndarray, "*n 2"]) -> float:
    """The length, in pixels, to paint in full colour: the 99th percentile of the lengths.

    At least 1 px, so that noise in a static scene stays pale.
    """
    return max(1.0, float(np.percentile(np.linalg.norm(flow, axis=-1), 99)))


def flow_to_rgb(
    flow: Float32[np.ndarray, "h w 2"], longest: float | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Paints flow (u, v) in pixels: white for no motion, full colour at length `longest`.

    Red points right, yellow down, cyan left, violet up. Longer vectors are darker. The default for
    `longest` is `color_scale(flow)`.
    """
    if longest is None:
        longest = color_scale(flow)
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    strength = (length / longest)[..., None]
    hue = _WHEEL[(angle * (_STEPS / (2 * np.pi))).astype(np.int32) % _STEPS]
    colour = np.where(strength <= 1, 1 - strength * (1 - hue), 0.75 * hue)
    return np.rint(colour * 255).astype(np.uint8)

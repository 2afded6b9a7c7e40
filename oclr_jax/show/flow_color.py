"""Flow as a picture: direction as hue, length as strength of colour."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

# The wheel of the Middlebury benchmark (Baker et al., IJCV 2011): pure colours, and the share of
# the circle from each to the next, chosen there for even perceived steps.
_CORNERS = np.array(
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float32
)
_SHARES = np.array([15, 6, 4, 11, 13, 6])
_STEPS = 1024


def _wheel() -> Float32[np.ndarray, "steps 3"]:
    corners = np.concatenate([[0], np.cumsum(_SHARES)]) / _SHARES.sum()
    places = np.arange(_STEPS) / _STEPS
    channels = [np.interp(places, corners, _CORNERS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


_WHEEL = _wheel()


def flow_to_rgb(
    flow: Float32[np.ndarray, "h w 2"], longest: float | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Paints flow (u, v) in pixels: white where it rests, full colour at length `longest`.

    Red points right, yellow down, cyan left, violet up. Longer vectors are darkened. By default
    `longest` is the 99th percentile of the lengths (at least 1 px, so that noise stays pale).
    """
    length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    if longest is None:
        longest = max(1.0, float(np.percentile(length, 99)))
    strength = (length / longest)[..., None]
    hue = _WHEEL[(angle * (_STEPS / (2 * np.pi))).astype(np.int32) % _STEPS]
    colour = np.where(strength <= 1, 1 - strength * (1 - hue), 0.75 * hue)
    return np.rint(colour * 255).astype(np.uint8)

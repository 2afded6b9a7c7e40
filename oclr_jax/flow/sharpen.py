"""Motion boundaries that follow those of colour: a joint bilateral filter of estimated flow.

DIS flow spills over the outlines of objects, and what is hidden in the other frame has no flow at
all. A mean over pixels of the same colour, of which only those count whose flow can be trusted,
mends both. It needs no weights. The weights of a pixel q in the mean of p are

    exp(-|p - q|^2 / (2 SPREAD^2) - |colour p - colour q|^2 / (2 COLOUR^2)) trust(q),

in which trust falls where the second frame has another colour at the end of the flow, and where the
flow back from there does not return.
"""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.flow.resize import resize_flow
from oclr_jax.video.resize import resize_image

# On the halved grid: the window reaches REACH pixels in each direction, of which it takes every
# STEP-th. More of them changed nothing (end-point error on rendered clips).
REACH, STEP = 8, 4
SPREAD = 5.0  # pixels of the halved grid
COLOUR = 12.0  # of a distance in CIELAB, in units of OpenCV's 8 bits
# A flow returns if it ends within this distance of its start, in pixels of the halved grid, plus
# this share of both lengths.
RETURN, RETURN_SHARE = 0.5, 0.05
# Where no pixel can be trusted, all count alike.
LEAST_TRUST = 1e-3


def sharpen(
    flow: Float32[np.ndarray, "h w 2"],
    backward: Float32[np.ndarray, "h w 2"],
    first: UInt8[np.ndarray, "h w 3"],
    second: UInt8[np.ndarray, "h w 3"],
) -> Float32[np.ndarray, "h w 2"]:
    """Flow from `first` to `second` (RGB) with sharper motion boundaries.

    The filter runs on the halved grid.

    Args:
      flow: from `first` to `second`, in pixels of its grid.
      backward: from `second` to `first`.
    """
    height, width = flow.shape[:2]
    half = max(1, height // 2), max(1, width // 2)
    there, back = resize_flow(flow, *half), resize_flow(backward, *half)
    colours, target = _colours(first, half), _colours(second, half)
    trust = _trust(there, back, colours, target)
    return resize_flow(_average(there, trust, colours), height, width)


def _colours(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> Float32[np.ndarray, "H W 3"]:
    return cv2.cvtColor(resize_image(image, *size), cv2.COLOR_RGB2LAB).astype(np.float32)


def _trust(
    flow: Float32[np.ndarray, "h w 2"],
    backward: Float32[np.ndarray, "h w 2"],
    colours: Float32[np.ndarray, "h w 3"],
    target: Float32[np.ndarray, "h w 3"],
) -> Float32[np.ndarray, "h w"]:
    """How far the flow of each pixel can be trusted, up to 1."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    ends = x + flow[..., 0], y + flow[..., 1]
    at_end = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    returning = cv2.remap(backward, *ends, **at_end)
    change = np.square(cv2.remap(target, *ends, **at_end) - colours).sum(axis=-1)
    lengths = np.hypot(*np.moveaxis(flow, -1, 0)) + np.hypot(*np.moveaxis(returning, -1, 0))
    missed = np.hypot(*np.moveaxis(flow + returning, -1, 0))
    returns = np.where(missed <= RETURN + RETURN_SHARE * lengths, 1, LEAST_TRUST)
    return (returns * (np.exp(change / (-2 * COLOUR**2)) + LEAST_TRUST)).astype(np.float32)


def _average(
    flow: Float32[np.ndarray, "h w 2"],
    trust: Float32[np.ndarray, "h w"],
    colours: Float32[np.ndarray, "h w 3"],
) -> Float32[np.ndarray, "h w 2"]:
    """The weighted mean of the flow around each pixel; the border repeats its last pixels."""
    height, width = trust.shape
    channels = [*np.moveaxis(colours, -1, 0), flow[..., 0] * trust, flow[..., 1] * trust, trust]
    padded = np.pad(np.stack(channels), ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    here, total = padded[:3, REACH:-REACH, REACH:-REACH], np.zeros((3, height, width), np.float32)
    for down in range(0, 2 * REACH + 1, STEP):
        for right in range(0, 2 * REACH + 1, STEP):
            part = padded[:, down : down + height, right : right + width]
            apart = ((down - REACH) ** 2 + (right - REACH) ** 2) / (2 * SPREAD**2)
            difference = np.square(part[:3] - here).sum(axis=0)
            weight = np.exp(difference * np.float32(-1 / (2 * COLOUR**2)) - np.float32(apart))
            total += weight * part[3:]
    return np.moveaxis(total[:2] / total[2], 0, -1)

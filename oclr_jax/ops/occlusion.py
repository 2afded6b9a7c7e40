"""Which of two objects hides the other, from their visible masks and the flow.

What disappears is behind: pixels of an object that its motion carries under the visible mask of
another one show that the other one is in front. Backward flow shows the same for what appears.
"""

from itertools import permutations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

# As shares of the frame's height: how near to an object the pixels of another one are looked at,
# and the side of the square over which the motion of an object is averaged.
NEAR = 1 / 20
SMOOTH = 1 / 8
# An object's motion is taken from its mask less its outermost pixels, if at least so many are left.
_MIN_CORE = 10
_OUTERMOST = np.ones((3, 3), np.uint8)


def hidden_pixels(
    ids: UInt8[np.ndarray, "h w"],
    there: UInt8[np.ndarray, "h w"],
    flow: Float32[np.ndarray, "h w 2"],
) -> dict[tuple[int, int], int]:
    """Counts the pixels of each object that move under another one.

    Every pixel moves as its object does around it, so that flow that is wrong next to an outline
    does not count.

    Args:
      ids: id of the visible object at each pixel of a frame, 0 for the background.
      there: the same for another frame.
      flow: (u, v) from the frame to the other one, pixels of this grid.

    Returns counts by (id that is hidden, id that hides it), without zeros.
    """
    height, width = ids.shape
    masks = {int(id): (ids == id).astype(np.uint8) for id in np.unique(ids) if id}
    if len(masks) < 2:
        return {}
    reach = 2 * max(round(NEAR * height), 1) + 1
    square = np.ones((reach, reach), np.uint8)
    around = {id: cv2.dilate(mask, square) for id, mask in masks.items()}
    motions: dict[int, np.ndarray] = {}
    counts = {}
    for back, front in permutations(masks, 2):
        y, x = np.nonzero(masks[back] & around[front])
        if not y.size:
            continue
        if back not in motions:
            motions[back] = object_motion(flow, masks[back])
        moved = motions[back][y, x]
        x, y = np.rint(x + moved[:, 0]).astype(int), np.rint(y + moved[:, 1]).astype(int)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        hidden = int(np.count_nonzero(there[y[inside], x[inside]] == front))
        if hidden:
            counts[back, front] = hidden
    return counts


def object_motion(
    flow: Float32[np.ndarray, "h w 2"], mask: UInt8[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w 2"]:
    """The motion of an object at and around each pixel, from the flow inside of its mask alone.

    Args:
      flow: (u, v), pixels.
      mask: 1 inside of the object, else 0; not empty.

    Returns (u, v): the mean over the part of the object in a square of SMOOTH around the pixel, and
    where there is none, the median over the object.
    """
    core = cv2.erode(mask, _OUTERMOST)
    core = (core if np.count_nonzero(core) >= _MIN_CORE else mask).astype(np.float32)
    side = 2 * round(SMOOTH * len(mask) / 2) + 1
    # A trace of the median decides where the square has nothing of the object.
    trace = np.float32(1e-3)
    share = cv2.blur(core, (side, side)) + trace
    total = cv2.blur(flow * core[..., None], (side, side)) + trace * np.median(
        flow[core > 0], axis=0
    )
    return (total / share[..., None]).astype(np.float32)

"""Unknown flow vectors: which they are, and how they are filled in before a model sees the flow.

Stored flow may be unknown at some pixels: Middlebury files hold values above 1e9 there, KITTI files
a mask. Values that are not finite count as unknown, too.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float32

# Middlebury's limit, and the value that its tools write.
UNKNOWN_ABOVE = 1e9
UNKNOWN_VALUE = 1e10
# Share of a frame's vectors that may be unknown. Beyond it, most of the flow would be invented.
MAX_UNKNOWN = 0.5


def known_vectors(flow: Float32[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """Where both components are finite and no Middlebury 'unknown'."""
    # NaN compares as false.
    return (np.abs(flow) <= UNKNOWN_ABOVE).all(axis=-1)


def fill_unknown(
    flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w 2"]:
    """Replaces each vector that is not valid by the nearest valid one; at least one must be."""
    if valid.all():
        return flow
    if not valid.any():
        raise ValueError("no vector is valid")
    # Labels number the zero pixels of the input in reading order, from 1.
    _, labels = cv2.distanceTransformWithLabels(
        (~valid).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.empty((labels[valid].max() + 1, 2), np.float32)
    nearest[labels[valid]] = flow[valid]
    return nearest[labels]

"""The colour wheel in which optical flow is painted."""

import numpy as np
from jaxtyping import Float32

# Colour wheel of the Middlebury benchmark (Baker et al., IJCV 2011): the pure colours, and the
# number of bins from each to the next, chosen there for perceptually even steps.
_CORNERS = np.array(
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float32
)
_BINS = np.array([15, 6, 4, 11, 13, 6])


def color_wheel(steps: int = int(_BINS.sum())) -> Float32[np.ndarray, "steps 3"]:
    """RGB colours in 0..1 at even steps around the wheel; by default its own 55 bins."""
    corners = np.concatenate([[0], np.cumsum(_BINS)]) / _BINS.sum()
    places = np.arange(steps) / steps
    channels = [np.interp(places, corners, _CORNERS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)

"""Axis letters, batches and key names shared by every room; imports nothing heavy.

Axes, everywhere: `b` batch, `t` time, `h w` rows and columns, `c` channels, `k` layers (front to
back in the ground truth, index 0 in front). Flow is `(u, v)` = (right, down) in pixels of the grid
on which it is stored; gap `+1` is frame i to i+1, gap `-1` is frame i to i-1.
"""

from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, UInt8


class Batch(TypedDict):
    """What a training step consumes.

    flow: both gaps stacked as (u+1, v+1, u-1, v-1), pixels of the model grid.
    amodal: 0/1 amodal masks, front to back, empty layers last.
    modal: 0/1 visible parts of the same layers.
    """

    flow: Float32[np.ndarray, "b t h w 4"]
    amodal: UInt8[np.ndarray, "b t h w k"]
    modal: UInt8[np.ndarray, "b t h w k"]


class FlowBatch(TypedDict):
    """What a training step of optical flow consumes.

    first, second: RGB.
    flow: of every pixel of `first`, in pixels, to `second`.
    valid: where the flow is known.
    estimated: in validation, the flow that the data holds of DIS between the same frames.
    """

    first: UInt8[np.ndarray, "b h w 3"]
    second: UInt8[np.ndarray, "b h w 3"]
    flow: Float32[np.ndarray, "b h w 2"]
    valid: Bool[np.ndarray, "b h w"]
    estimated: NotRequired[Float32[np.ndarray, "b h w 2"]]


AnyBatch = Batch | FlowBatch

"""Axis names and batch types, shared by all packages. Imports nothing heavy.

Axes: `b` batch, `t` time, `h w` rows and columns, `c` channels, `k` layers (ground truth runs front
to back, index 0 in front). Flow is `(u, v)` = (right, down) in pixels of the grid on which it is
stored. Gap `+1` is from frame i to i+1, gap `-1` from frame i to i-1.
"""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, UInt8

ANNOTATED = "annotated"  # in the version of training data with human annotation
# Of a model's computation; parameters, losses and results stay float32.
PRECISIONS = ("float32", "bfloat16")
# Models that find moving objects in optical flow: OCLR, and baselines to compare it with.
MODELS = ("oclr", "motion-grouping", "mask-rcnn", "geometric")


class Batch(TypedDict):
    """A batch for training the segmentation of moving objects.

    flow: both gaps stacked as (u+1, v+1, u-1, v-1), in pixels of the model grid.
    amodal: binary amodal masks, front to back, empty layers last.
    modal: binary masks of the visible parts of the same layers.
    """

    flow: Float32[np.ndarray, "b t h w 4"]
    amodal: UInt8[np.ndarray, "b t h w k"]
    modal: UInt8[np.ndarray, "b t h w k"]


class FlowBatch(TypedDict):
    """A batch for training optical flow.

    first, second: RGB frames.
    flow: from `first` to `second`, in pixels.
    valid: where the flow is known.
    estimated: in validation, the stored DIS flow between the same frames.
    """

    first: UInt8[np.ndarray, "b h w 3"]
    second: UInt8[np.ndarray, "b h w 3"]
    flow: Float32[np.ndarray, "b h w 2"]
    valid: Bool[np.ndarray, "b h w"]
    estimated: NotRequired[Float32[np.ndarray, "b h w 2"]]


class RGBBatch(TypedDict):
    """What a training step of appearance models consumes; all fields on one grid.

    rgb: frames.
    flow: both gaps stacked as (u+1, v+1, u-1, v-1), pixels of this grid.
    amodal: 0/1 amodal masks, front to back, empty layers last.
    modal: 0/1 visible parts of the same layers.
    predicted: amodal foreground probability x 255 of the layers that a flow model predicts; the
        layers are in no particular order, the same in all frames.
    predicted_order: pseudo-depth of the predicted layers in every frame, lowest in front.
    """

    rgb: UInt8[np.ndarray, "b t h w 3"]
    flow: Float32[np.ndarray, "b t h w 4"]
    amodal: UInt8[np.ndarray, "b t h w k"]
    modal: UInt8[np.ndarray, "b t h w k"]
    predicted: NotRequired[UInt8[np.ndarray, "b t h w q"]]
    predicted_order: NotRequired[Float32[np.ndarray, "b t q"]]


# Any dict of arrays with a leading axis over examples, such as those above.
AnyBatch = Mapping[str, Any]

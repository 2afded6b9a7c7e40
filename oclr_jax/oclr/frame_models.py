"""Models that see single frames, as models of windows: their masks are linked over the frames."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, UInt8

from oclr_jax.models.baselines import mask_rcnn
from oclr_jax.models.baselines.motion_grouping import (
    MotionGrouping,
    MotionGroupingConfig,
    model_input,
)
from oclr_jax.oclr.passes import soft_iou
from oclr_jax.ops.metrics import assign, border_share

Layers = tuple[Float32[np.ndarray, "b t h w k"], Float32[np.ndarray, "b k"]]
# Parameters and (u, v) per gap in pixels -> soft masks of the slots for each flow.
FlowMasks = Callable[[Any, Float32[np.ndarray, "t h w c"]], Float32[np.ndarray, "t gaps h w slots"]]


def aligned_columns(probability: Float[np.ndarray, "t h w k"]) -> Int[np.ndarray, "t k"]:
    """For every frame the permutation of its layers that agrees with the frames before it.

    Layers are assigned by the IoU of their soft masks (Hungarian), each with its last mask that was
    not empty. A mask that agrees with none takes a layer that is left; `link_windows` cuts a track
    where it jumps from one object to another.
    """
    last = np.zeros(probability.shape[1:], probability.dtype)
    columns = np.zeros((len(probability), probability.shape[-1]), int)
    for chosen, found in zip(columns, probability, strict=True):
        chosen[:] = [column for _, column in assign(soft_iou(last, found))]
        frame = found[..., chosen]
        seen = (frame > 0.5).any(axis=(0, 1))
        last[..., seen] = frame[..., seen]
    return columns


def align_layers(probability: Float[np.ndarray, "t h w k"]) -> Float[np.ndarray, "t h w k"]:
    """The layers with the permutations of `aligned_columns`."""
    columns = aligned_columns(probability)
    return np.take_along_axis(probability, columns[:, None, None], axis=-1)


@lru_cache(maxsize=4)
def make_flow_masks(config: MotionGroupingConfig) -> FlowMasks:
    """Compiles Motion Grouping for the flows of one frame after the other."""

    @jax.jit
    def apply(params: Any, flow: Float[Array, "h w c"]) -> Float[Array, "gaps h w slots"]:
        flows = jnp.moveaxis(flow.reshape(*flow.shape[:2], -1, 2), 2, 0)
        return MotionGrouping(config).apply({"params": params}, model_input(config, flows)).masks

    def masks(
        params: Any, flow: Float32[np.ndarray, "t h w c"]
    ) -> Float32[np.ndarray, "t gaps h w slots"]:
        return np.stack([np.asarray(apply(params, frame)) for frame in flow])

    return masks


def make_motion_grouping(config: MotionGroupingConfig) -> Callable[[Any, Any], Layers]:
    """Motion Grouping as a model of windows; see `foreground_layers`."""
    masks_of = make_flow_masks(config)

    def predict(params: Any, flow: Float32[np.ndarray, "b t h w c"]) -> Layers:
        layers = [foreground_layers(masks_of(params, window)) for window in flow]
        return np.stack(layers), np.zeros((len(flow), config.queries), np.float32)

    return predict


def foreground_layers(
    slots: Float32[np.ndarray, "t gaps h w k"],
) -> Float32[np.ndarray, "t h w layers"]:
    """Layers of a window from the masks of its flows, without ground truth; layers = k - 1.

    The slots of all flows are aligned and averaged over the gaps. The slot that covers most of the
    image border, in the mean over the window, is the background and left out.
    """
    t, gaps, *shape = slots.shape
    aligned = align_layers(slots.reshape(t * gaps, *shape)).reshape(slots.shape).mean(axis=1)
    share = [
        np.mean([border_share(frame) for frame in aligned[..., slot] > 0.5])
        for slot in range(shape[-1])
    ]
    return np.delete(aligned, int(np.argmax(share)), axis=-1)


def make_mask_rcnn(config: mask_rcnn.MaskRCNNConfig) -> Callable[..., Layers]:
    """Mask R-CNN as a model of windows: (variables, flow) or (variables, flow, frames) -> layers.

    The detections of a window's frames are aligned (`align_layers`). In a frame, the detection of
    the higher score is in front: pixels of two detections belong to it. The depth of a layer is its
    mean score, so that this is also the order of layers that never meet.
    """

    @jax.jit
    def apply(
        variables: Any, flow: Float[Array, "n h w c"], frames: UInt8[Array, "n h w 3"] | None
    ) -> tuple[Float[Array, "n h w k"], Float[Array, "n k"]]:
        found = mask_rcnn.detect(config, variables, mask_rcnn.model_input(config, flow, frames))
        # By falling score: what a detection before it takes, a later one loses.
        taken = jnp.cumsum(found.masks > 0.5, axis=-1) - (found.masks > 0.5) > 0
        return jnp.where(taken, jnp.minimum(found.masks, 0.5), found.masks), found.scores

    def predict(
        variables: Any,
        flow: Float32[np.ndarray, "b t h w c"],
        frames: UInt8[np.ndarray, "b t h w 3"] | None = None,
    ) -> Layers:
        layers, order = [], []
        for index, window in enumerate(flow):
            rgb = None if frames is None else frames[index]
            parts = [
                apply(variables, window[i : i + 1], None if rgb is None else rgb[i : i + 1])
                for i in range(len(window))
            ]
            masks, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
            columns = aligned_columns(masks)
            layers.append(np.take_along_axis(masks, columns[:, None, None], axis=-1))
            order.append(-np.take_along_axis(scores, columns, axis=-1).mean(axis=0))
        return np.stack(layers), np.stack(order).astype(np.float32)

    return predict

"""Boxes of detectors, inside jit: anchors, regression, suppression, and crops of features.

A box is (left, top, right, bottom) in pixels. As in Faster R-CNN, Feature Pyramid Networks and Mask
R-CNN (Ren et al., NeurIPS 2015; Lin et al., CVPR 2017; He et al., ICCV 2017).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

RATIOS = (0.5, 1.0, 2.0)  # height / width of anchors
_ANCHOR_SIDE = 2  # of a square anchor, in strides of its level
_MAX_LOG = float(np.log(1000 / 16))  # of a size's regression, so that a bad one stays finite
_CANONICAL_SIDE, _CANONICAL_LEVEL = 224, 4  # a box of this side is cropped from stride 2^4


def make_anchors(
    height: int, width: int, strides: Sequence[int]
) -> list[Float32[np.ndarray, "_n 4"]]:
    """Anchors of every level, row by row, for each cell one of each ratio; all have a level's area.

    Args:
      height, width: of the frame; a level has ceil(height / stride) rows.
    """
    levels = []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
        center = np.stack([x, y], axis=-1)[:, :, None] * stride
        half = np.array([(1 / np.sqrt(r), np.sqrt(r)) for r in RATIOS]) * _ANCHOR_SIDE * stride / 2
        boxes = np.concatenate([center - half, center + half], axis=-1)
        levels.append(boxes.reshape(-1, 4).astype(np.float32))
    return levels


def encode_boxes(
    boxes: Float[Array, "*n 4"], anchors: Float[Array, "*n 4"], scale: Sequence[float] = (1.0, 1.0)
) -> Float[Array, "*n 4"]:
    """Regression targets (x, y, width, height) of boxes relative to anchors.

    `scale` multiplies places and sizes; Fast R-CNN has (10, 5) for its second stage.
    """
    center, size = _center_size(boxes)
    anchor_center, anchor_size = _center_size(anchors)
    place = (center - anchor_center) / anchor_size
    return jnp.concatenate([place * scale[0], jnp.log(size / anchor_size) * scale[1]], axis=-1)


def decode_boxes(
    deltas: Float[Array, "*n 4"], anchors: Float[Array, "*n 4"], scale: Sequence[float] = (1.0, 1.0)
) -> Float[Array, "*n 4"]:
    """Inverse of `encode_boxes`; sizes grow at most by 1000 / 16."""
    anchor_center, anchor_size = _center_size(anchors)
    center = deltas[..., :2] / scale[0] * anchor_size + anchor_center
    size = jnp.exp(jnp.minimum(deltas[..., 2:] / scale[1], _MAX_LOG)) * anchor_size
    return jnp.concatenate([center - size / 2, center + size / 2], axis=-1)


def clip_boxes(boxes: Float[Array, "*n 4"], height: int, width: int) -> Float[Array, "*n 4"]:
    """The part of each box inside of the frame."""
    return jnp.clip(boxes, 0, jnp.array([width, height, width, height], boxes.dtype))


def pairwise_box_iou(
    boxes: Float[Array, "n 4"], others: Float[Array, "m 4"]
) -> Float[Array, "n m"]:
    """IoU of every pair; 0 for boxes without area."""
    low = jnp.maximum(boxes[:, None, :2], others[:, :2])
    high = jnp.minimum(boxes[:, None, 2:], others[:, 2:])
    both = jnp.maximum(high - low, 0).prod(axis=-1)
    areas = [jnp.maximum(x[:, 2:] - x[:, :2], 0).prod(axis=-1) for x in (boxes, others)]
    either = areas[0][:, None] + areas[1] - both
    return jnp.where(either > 0, both / jnp.where(either > 0, either, 1.0), 0.0)


def suppress(
    boxes: Float[Array, "n 4"], scores: Float[Array, "n"], threshold: float
) -> Bool[Array, "n"]:
    """Greedy non-maximum suppression: which boxes stay.

    From the highest score down, a box is dropped if its IoU with one that stays exceeds the
    threshold. Scores of -inf mark boxes that are none; they never stay. Of equal scores the first
    box wins.
    """
    order = jnp.argsort(-scores, stable=True)
    overlap = pairwise_box_iou(boxes[order], boxes[order]) > threshold
    later = jnp.arange(len(boxes))[:, None] < jnp.arange(len(boxes))

    def step(i: Int[Array, ""], stays: Bool[Array, "n"]) -> Bool[Array, "n"]:
        return stays & ~(stays[i] & overlap[i] & later[i])

    stays = jax.lax.fori_loop(0, len(boxes), step, jnp.isfinite(scores[order]))
    return jnp.zeros(len(boxes), bool).at[order].set(stays)


def crop_levels(boxes: Float[Array, "r 4"], count: int) -> Int[Array, "r"]:
    """From which of `count` levels, the first of stride 4, a box is cropped, by its size.

    Equation 1 of the paper on Feature Pyramid Networks.
    """
    area = jnp.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3).prod(axis=-1)
    level = jnp.floor(_CANONICAL_LEVEL + jnp.log2(jnp.sqrt(area) / _CANONICAL_SIDE))
    return jnp.clip(level.astype(jnp.int32) - 2, 0, count - 1)


def roi_align(
    levels: Sequence[Float[Array, "_h _w c"]],
    strides: Sequence[int],
    boxes: Float[Array, "r 4"],
    level: Int[Array, "r"],
    size: int,
    samples: int = 2,
) -> Float[Array, "r {size} {size} c"]:
    """Crops of features: the mean of `samples` x `samples` bilinear samples in each of size^2 bins.

    Mask R-CNN, section 3. Nothing is rounded: a feature lies at the centre of its pixels, so half a
    cell is subtracted. Samples outside of a level take the value at its border.

    Args:
      levels: feature maps of one frame.
      strides: pixels per cell of each level.
      boxes: in pixels of the frame.
      level: from which level each box is cropped.
      size: rows and columns of a crop.
    """
    shapes = jnp.array([x.shape[:2] for x in levels], jnp.int32)
    cells = [x.shape[0] * x.shape[1] for x in levels]
    first = jnp.array(np.cumsum([0, *cells[:-1]]), jnp.int32)[level]
    flat = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in levels])
    scaled = boxes / jnp.array(strides, boxes.dtype)[level][:, None] - 0.5
    steps = (jnp.arange(size * samples) + 0.5) / (size * samples)
    low, high, share = [], [], []
    for axis, last in ((1, shapes[level, 0] - 1), (0, shapes[level, 1] - 1)):
        begin, end = scaled[:, axis], scaled[:, axis + 2]
        place = begin[:, None] + steps * (end - begin)[:, None]
        place = jnp.clip(place, 0, last[:, None].astype(place.dtype))
        low.append(jnp.floor(place).astype(jnp.int32))
        high.append(jnp.minimum(low[-1] + 1, last[:, None]))
        share.append(place - low[-1])
    columns = shapes[level, 1][:, None, None]

    def at(y: Int[Array, "r s"], x: Int[Array, "r s"]) -> Float[Array, "r s s c"]:
        return flat[first[:, None, None] + y[:, :, None] * columns + x[:, None, :]]

    down, right = share[0][:, :, None, None], share[1][:, None, :, None]
    top = at(low[0], low[1]) * (1 - right) + at(low[0], high[1]) * right
    bottom = at(high[0], low[1]) * (1 - right) + at(high[0], high[1]) * right
    crop = top * (1 - down) + bottom * down
    return crop.reshape(len(boxes), size, samples, size, samples, -1).mean(axis=(2, 4))


def paste_masks(
    masks: Float[Array, "r m m"], boxes: Float[Array, "r 4"], height: int, width: int
) -> Float[Array, "r {height} {width}"]:
    """Masks of boxes in the whole frame, bilinear; 0 outside of their boxes."""

    def weights(begin: Float[Array, "r"], end: Float[Array, "r"], count: int) -> Array:
        place = jnp.arange(count) + 0.5
        extent = jnp.maximum(end - begin, 1e-3)
        at = (place - begin[:, None]) / extent[:, None] * masks.shape[-1] - 0.5
        at = jnp.clip(at, 0, masks.shape[-1] - 1)
        inside = (place >= begin[:, None]) & (place <= end[:, None])
        near = jnp.maximum(1 - jnp.abs(at[..., None] - jnp.arange(masks.shape[-1])), 0)
        return near * inside[..., None]

    down = weights(boxes[:, 1], boxes[:, 3], height)
    right = weights(boxes[:, 0], boxes[:, 2], width)
    return jnp.einsum("rhm,rmn,rwn->rhw", down, masks, right)


def boxes_of_masks(
    masks: Bool[Array, "h w k"],
) -> tuple[Float[Array, "k 4"], Bool[Array, "k"]]:
    """The box around each mask, and whether the mask is not empty (else its box is all 0)."""

    def extent(covered: Bool[Array, "n k"]) -> tuple[Array, Array]:
        return covered.argmax(axis=0), len(covered) - covered[::-1].argmax(axis=0)

    top, bottom = extent(masks.any(axis=1))
    left, right = extent(masks.any(axis=0))
    there = masks.any(axis=(0, 1))
    boxes = jnp.stack([left, top, right, bottom], axis=-1).astype(jnp.float32)
    return jnp.where(there[:, None], boxes, 0.0), there


def _center_size(boxes: Float[Array, "*n 4"]) -> tuple[Float[Array, "*n 2"], Float[Array, "*n 2"]]:
    size = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 1e-3)
    return (boxes[..., :2] + boxes[..., 2:]) / 2, size

"""Targets and losses of Mask R-CNN for one frame, inside jit (He et al., ICCV 2017).

Labels are 1 for an object, 0 for the background, -1 for neither.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from oclr_jax.ops.boxes import encode_boxes, pairwise_box_iou, roi_align

ANCHOR_IOU = (0.3, 0.7)  # below: background, from: object
PROPOSAL_IOU = 0.5
HEAD_SCALE = (10.0, 5.0)  # of the regression in the second stage
_SMOOTH = 1 / 9  # where the smooth L1 loss becomes linear


class Samples(NamedTuple):
    """Boxes that are learned from, objects first.

    index: which of the boxes.
    label: of each; -1 fills up where there are too few.
    object: the true object of each; of no meaning unless the label is 1.
    """

    index: Int[Array, "s"]
    label: Int[Array, "s"]
    object: Int[Array, "s"]


def label_anchors(
    anchors: Float[Array, "n 4"], boxes: Float[Array, "k 4"], there: Bool[Array, "k"]
) -> tuple[Int[Array, "n"], Int[Array, "n"]]:
    """Label and true object of every anchor.

    Objects are anchors of IoU 0.7 or more, and for each true object those of the highest IoU.

    Args:
      boxes: of the true objects.
      there: whether each is in the frame.
    """
    iou = jnp.where(there, pairwise_box_iou(anchors, boxes), 0.0)
    best = iou.max(axis=1)
    label = jnp.where(best >= ANCHOR_IOU[1], 1, jnp.where(best < ANCHOR_IOU[0], 0, -1))
    highest = (iou >= iou.max(axis=0)) & (iou > 0)
    chosen = jnp.where(highest, iou, -1.0).argmax(axis=1)
    forced = highest.any(axis=1)
    return jnp.where(forced, 1, label), jnp.where(forced, chosen, iou.argmax(axis=1))


def label_proposals(
    proposals: Float[Array, "n 4"],
    valid: Bool[Array, "n"],
    boxes: Float[Array, "k 4"],
    there: Bool[Array, "k"],
) -> tuple[Int[Array, "n"], Int[Array, "n"]]:
    """Label and true object of every proposal; -1 for those that are not valid."""
    iou = jnp.where(there, pairwise_box_iou(proposals, boxes), 0.0)
    label = (iou.max(axis=1) >= PROPOSAL_IOU).astype(jnp.int32)
    return jnp.where(valid, label, -1), iou.argmax(axis=1)


def sample_boxes(
    key: Key[Array, ""],
    label: Int[Array, "n"],
    object: Int[Array, "n"],
    count: int,
    objects: int,
) -> Samples:
    """Draws up to `count` boxes at random, at most `objects` of which are objects."""
    draw = jax.random.uniform(key, label.shape)
    # Objects are ranked by their draw; those beyond the limit are not used.
    rank = jnp.argsort(jnp.argsort(jnp.where(label == 1, -draw, 2.0), stable=True), stable=True)
    used = (label == 1) & (rank < objects)
    priority = jnp.where(used, 2.0, jnp.where(label == 0, 1.0, -1.0)) + draw
    priority, index = jax.lax.top_k(priority, min(count, len(label)))
    return Samples(index, jnp.where(priority < 1, -1, label[index]), object[index])


def box_loss(
    logits: Float[Array, "s"],
    deltas: Float[Array, "s 4"],
    samples: Samples,
    anchors: Float[Array, "s 4"],
    boxes: Float[Array, "k 4"],
    scale: tuple[float, float] = (1.0, 1.0),
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross-entropy of object or background, and smooth L1 loss of the objects' boxes.

    Both are divided by the number of samples, as published.

    Args:
      logits, deltas: predicted for the samples.
      anchors: of the samples; in the second stage the proposals.
      boxes: of the true objects.
      scale: as in `encode_boxes`.
    """
    used, positive = samples.label >= 0, samples.label == 1
    count = jnp.maximum(used.sum(), 1)
    entropy = optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    wanted = encode_boxes(boxes[samples.object], anchors, scale)
    error = optax.huber_loss(deltas, wanted, delta=_SMOOTH).sum(axis=-1) / _SMOOTH
    # Not multiplied by 0: an error where there is no object may be infinite.
    return (
        jnp.where(used, entropy, 0.0).sum() / count,
        jnp.where(positive, error, 0.0).sum() / count,
    )


def mask_loss(
    logits: Float[Array, "s m m"],
    samples: Samples,
    boxes: Float[Array, "s 4"],
    masks: Bool[Array, "h w k"],
) -> Float[Array, ""]:
    """Mean cross-entropy of the masks inside the boxes of objects; 0 without objects."""
    positive = samples.label == 1
    level = jnp.zeros(len(boxes), jnp.int32)
    crops = roi_align([masks.astype(jnp.float32)], [1], boxes, level, logits.shape[-1])
    own = jnp.take_along_axis(crops, samples.object[:, None, None, None], axis=-1)[..., 0]
    wanted = (own >= 0.5).astype(logits.dtype)
    entropy = optax.sigmoid_binary_cross_entropy(logits, wanted).mean(axis=(1, 2))
    return jnp.where(positive, entropy, 0.0).sum() / jnp.maximum(positive.sum(), 1)

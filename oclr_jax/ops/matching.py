"""Matching of predicted layers to ground-truth layers, inside jit.

The queries are permutation invariant. Before a loss or a score is computed, the predictions of each
clip are assigned to its ground truth at the least total cost (first paper, section 2.3; Hungarian
matching). A matching is an array `match[gt] = prediction`.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

MAX_LAYERS = 8


def match_layers(cost: Float[Array, "b k k"]) -> Int[Array, "b k"]:
    """The one-to-one assignment of least total cost, for each matrix of a batch.

    All K! assignments are evaluated. This is exact, needs no data-dependent loop on the device, and
    is safe for non-finite costs. For the K of this model it is a few hundred additions.

    Args:
      cost: cost[b, prediction, gt].

    Returns:
      match[b, gt] = prediction. Ties go to the lexicographically first assignment.

    Raises:
      ValueError: for more than MAX_LAYERS layers.
    """
    layers = cost.shape[-1]
    if layers > MAX_LAYERS:
        raise ValueError(
            f"matching evaluates all K! assignments: K = {layers} exceeds {MAX_LAYERS}"
        )
    matches = np.array(list(itertools.permutations(range(layers))))  # [K!, gt] = prediction
    total = cost[:, matches, np.arange(layers)].sum(axis=-1)
    return jnp.asarray(matches)[jnp.argmin(total, axis=-1)]


def invert(match: Int[Array, "b k"]) -> Int[Array, "b k"]:
    """The inverse of a matching: the ground-truth layer of each prediction."""
    return jnp.argsort(match, axis=-1)


def take_layers(
    layers: Shaped[Array, "b *s k"], index: Int[Array, "b k"]
) -> Shaped[Array, "b *s k"]:
    """Permutes the last axis, with an index per clip."""
    return jax.vmap(lambda clip, chosen: jnp.take(clip, chosen, axis=-1))(layers, index)


def pairwise_bce(
    amodal_logits: Float[Array, "b t h w k"],
    amodal: UInt8[Array, "b t h w k"] | Float[Array, "b t h w k"],
) -> Float[Array, "b k k"]:
    """Mean binary cross-entropy of every (prediction, ground truth) pair of layers.

    Written as softplus(x) - x g, it splits into a term of the prediction and an inner product, so
    all K^2 pairs need one pass over the logits. For matching only: the loss uses the stable form.
    """
    pixels = amodal_logits.shape[1] * amodal_logits.shape[2] * amodal_logits.shape[3]
    alone = jax.nn.softplus(amodal_logits).sum(axis=(1, 2, 3))
    product = jnp.einsum(
        "bthwp,bthwq->bpq",
        amodal_logits,
        amodal.astype(amodal_logits.dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    return (alone[:, :, None] - product) / pixels


def pairwise_iou(
    masks: Bool[Array, "b t h w k"], truth: Bool[Array, "b t h w k"]
) -> Float[Array, "b t k k"]:
    """IoU of every (prediction, ground truth) pair in every frame; 1 if both masks are empty."""
    a, g = masks.astype(jnp.float32), truth.astype(jnp.float32)
    both = jnp.einsum("bthwp,bthwq->btpq", a, g, precision=jax.lax.Precision.HIGHEST)
    area_a, area_g = a.sum(axis=(2, 3)), g.sum(axis=(2, 3))
    either = area_a[..., :, None] + area_g[..., None, :] - both
    return jnp.where(either > 0, both / jnp.maximum(either, 1.0), 1.0)


def matched_iou(
    masks: Bool[Array, "b t h w k"], truth: Bool[Array, "b t h w k"]
) -> tuple[Float[Array, "b t k"], Bool[Array, "b t k"]]:
    """IoU of every ground-truth layer with its prediction, matched by the mean IoU over time.

    Returns:
      IoU per frame and ground-truth layer, and whether the layer is present in that frame. Scores
      are means over present layers (supplement, section D.1).
    """
    iou = pairwise_iou(masks, truth)
    match = match_layers(-iou.mean(axis=1))
    matched = jnp.take_along_axis(iou, match[:, None, None, :], axis=2)[:, :, 0]
    return matched, truth.any(axis=(2, 3))

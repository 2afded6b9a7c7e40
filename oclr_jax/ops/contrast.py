"""Supervised contrastive loss between the features of two frames (first paper, supplement C)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

# Offsets between an object's cells and those left out around it, along either axis. The dilation of
# the published program reaches these offsets only, and not all within 5 cells.
MARGIN = (-5, 0, 5)
TEMPERATURE = 0.07
MAX_LOSS = 0.65  # of one cell; a cell above it does not change the features
ROWS = 512  # cells of the first frame that are compared with the second one at once


def contrast_regions(
    masks: Bool[np.ndarray, "*b h w"],
) -> tuple[Bool[np.ndarray, "*b h w"], Bool[np.ndarray, "*b h w"]]:
    """Cells that belong to an object for certain, and cells that certainly do not.

    The former are the mask eroded by a 3x3 square; the latter are the complement of its dilation by
    the nine offsets of `MARGIN`. Outside the frame nothing erodes or dilates.
    """
    inside = ~_spread(~masks, (-1, 0, 1))
    return inside, ~_spread(masks, MARGIN)


def _spread(masks: Bool[np.ndarray, "*b h w"], offsets: tuple[int, ...]) -> Bool[np.ndarray, "..."]:
    """Dilates by all pairs of the offsets along the two axes."""
    height, width = masks.shape[-2:]
    reach = max(offsets)
    padded = np.pad(masks, [(0, 0)] * (masks.ndim - 2) + [(reach, reach)] * 2)
    spread = np.zeros_like(masks)
    for dy in offsets:
        for dx in offsets:
            y, x = reach + dy, reach + dx
            spread |= padded[..., y : y + height, x : x + width]
    return spread


def contrastive_loss(
    features: Float[Array, "2 n c"],
    positive: Num[Array, "2 k n"],
    negative: Num[Array, "2 k n"],
    rows: int = ROWS,
) -> Float[Array, ""]:
    """Features of an object should resemble the same object in another frame, and nothing else.

    The affinity A is the softmax of cosine / 0.07 over the second frame, for each cell of the first
    one. A cell of an object scores p, its affinity with the object's cells in the other frame, and
    q, that with the cells outside of the object. Its loss is -log(p / (p + q)), at most
    `MAX_LOSS`. From the second frame to the first, A is transposed and not normalised again, as in
    the published program. (Equations 7 to 9 of the paper have plain cosines.)

    The matrix of all pairs of cells is never held: blocks of rows are recomputed in the backward
    pass.

    Args:
      features: of two frames, n cells each.
      positive, negative: 1 where a cell is inside of one of the k objects, and outside of it.
      rows: cells of the first frame in a block.

    Returns:
      the mean of both directions, each the mean over the positive cells of all objects; 0 in a
      direction that has none.
    """
    norms = jnp.linalg.norm(features, axis=-1, keepdims=True)
    first, second = features / jnp.maximum(norms, 1e-12)
    positive, negative = positive.astype(jnp.float32), negative.astype(jnp.float32)
    objects, cells = positive.shape[1:]
    # The objects' regions side by side, so that one product serves all.
    forth = jnp.concatenate([positive[1], negative[1]]).T
    back = jnp.concatenate([positive[0], negative[0]]).T
    count = -(-cells // rows)
    pad = ((0, count * rows - cells), (0, 0))
    first = jnp.pad(first, pad).reshape(count, rows, -1)
    back = jnp.pad(back, pad).reshape(count, rows, -1)

    @jax.checkpoint
    def block(backward, inputs):
        features, regions = inputs
        affinity = jax.nn.softmax(features @ second.T / TEMPERATURE, axis=-1)
        return backward + affinity.T @ regions, affinity @ forth

    backward, forward = jax.lax.scan(block, jnp.zeros((cells, 2 * objects)), (first, back))
    forward = forward.reshape(count * rows, -1)[:cells]
    return (_direction(forward, positive[0]) + _direction(backward, positive[1])) / 2


def _direction(scores: Float[Array, "n m"], positive: Float[Array, "k n"]) -> Float[Array, ""]:
    p, q = jnp.split(scores.T, 2)
    known = p + q > 0
    fraction = jnp.where(known, p / jnp.where(known, p + q, 1), 0)
    # The bound inside the logarithm keeps gradients finite where p is 0.
    loss = -jnp.log(jnp.maximum(fraction, np.exp(-MAX_LOSS)))
    return (loss * positive).sum() / jnp.maximum(positive.sum(), 1)

"""Training loss and validation errors of learned optical flow."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from oclr_jax.ops.flow_metrics import OUTLIER_PIXELS, OUTLIER_SHARE

GAMMA = 0.8  # decay of the loss weights, from the last iteration backwards (RAFT, section 3.4)
MAX_FLOW = 400.0  # px; longer vectors are left out of the loss (released program)


def learned_vectors(
    truth: Float[Array, "n h w 2"], valid: Bool[Array, "n h w"]
) -> Bool[Array, "n h w"]:
    """The vectors that count in the loss: valid, and shorter than MAX_FLOW."""
    return valid & (jnp.linalg.norm(truth, axis=-1) < MAX_FLOW)


def sequence_loss(
    flows: Float[Array, "steps n h w 2"],
    truth: Float[Array, "n h w 2"],
    valid: Bool[Array, "n h w"],
    gamma: float = GAMMA,
    vectors: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Weighted sum of the mean absolute error over the RAFT iterations (RAFT, equation 7).

    The last iteration has weight 1, each earlier one `gamma` times the weight of the next. The mean
    is over both components of the `learned_vectors`; 0 if there are none. (The mean of the released
    program is over all vectors, with 0 for the others.)

    Args:
      flows: output of every iteration, in pixels.
      truth, valid: ground truth, and where it is known.
      gamma: decay of the weights.
      vectors: the divisor for a part of a batch: the mean number of learned vectors over the equal
        parts of the batch. The mean of the losses of the parts is then the loss of the batch. None
        if this is the whole batch.
    """
    used = learned_vectors(truth, valid)
    count = used.sum() if vectors is None else vectors
    # Masked twice: unknown vectors may be NaN, which would reach the gradient.
    truth = jnp.where(used[..., None], truth, 0.0)
    error = jnp.where(used[..., None], jnp.abs(flows - truth), 0.0)
    per_step = error.sum(axis=(1, 2, 3, 4)) / jnp.maximum(2 * count, 1)
    weights = gamma ** np.arange(len(flows) - 1, -1, -1, dtype=np.float32)
    return (weights * per_step).sum()


def end_point_errors(
    flow: Float[Array, "n h w 2"], truth: Float[Array, "n h w 2"], valid: Bool[Array, "n h w"]
) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
    """Sums of errors over the valid vectors, and their `count`, to be added up over batches.

    `epe`: end-point error in pixels; `over_1px`, `over_3px`: number of vectors with a larger error;
    `fl_all`: 100 for each outlier as defined by `flow_metrics.fl_all`.
    """
    distance = jnp.linalg.norm(flow - truth, axis=-1)
    long = OUTLIER_SHARE * jnp.linalg.norm(truth, axis=-1)
    wrong = (distance > OUTLIER_PIXELS) & (distance > long)
    counted = {
        "epe": distance,
        "over_1px": distance > 1,
        "over_3px": distance > 3,
        "fl_all": 100.0 * wrong,
    }
    sums = {name: jnp.where(valid, values, 0).sum() for name, values in counted.items()}
    return sums | {"count": valid.sum()}

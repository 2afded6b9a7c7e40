"""The training loss of learned optical flow, and the errors that its training reports."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from oclr_jax.ops.flow_metrics import OUTLIER_PIXELS, OUTLIER_SHARE

GAMMA = 0.8  # weight of a step's error over that of the next (RAFT, section 3.4)
MAX_FLOW = 400.0  # px; longer vectors are not learned from (released program)


def learned_vectors(
    truth: Float[Array, "n h w 2"], valid: Bool[Array, "n h w"]
) -> Bool[Array, "n h w"]:
    """The vectors that are learned from: known, and not longer than MAX_FLOW."""
    return valid & (jnp.linalg.norm(truth, axis=-1) < MAX_FLOW)


def sequence_loss(
    flows: Float[Array, "steps n h w 2"],
    truth: Float[Array, "n h w 2"],
    valid: Bool[Array, "n h w"],
    gamma: float = GAMMA,
    vectors: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Weighted sum over the steps of refinement of the mean absolute error (RAFT, equation 7).

    The last step has weight 1, each one before `gamma` times that of the next. The mean is over
    both components of the `learned_vectors`; 0 where there are none. The released program's mean
    counts all others as 0.

    Args:
      vectors: for a part of a batch, the mean number of learned vectors of the batch's equal parts;
        then the mean of the parts' losses is the loss of the batch. None: their own number.
    """
    used = learned_vectors(truth, valid)
    count = used.sum() if vectors is None else vectors
    # Twice, because unknown vectors may be no numbers, and so would be the gradient.
    truth = jnp.where(used[..., None], truth, 0.0)
    error = jnp.where(used[..., None], jnp.abs(flows - truth), 0.0)
    per_step = error.sum(axis=(1, 2, 3, 4)) / jnp.maximum(2 * count, 1)
    weights = gamma ** np.arange(len(flows) - 1, -1, -1, dtype=np.float32)
    return (weights * per_step).sum()


def end_point_errors(
    flow: Float[Array, "n h w 2"], truth: Float[Array, "n h w 2"], valid: Bool[Array, "n h w"]
) -> dict[str, Float[Array, ""] | Int[Array, ""]]:
    """Sums over the valid vectors, to add up over batches, and `count`, how many they are.

    `epe`: distance in pixels; `over_1px`, `over_3px`: vectors further off than that; `fl_all`: 100
    for each that `flow_metrics.fl_all` calls wrong.
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

"""Slot attention: cross-attention in which the queries compete for every key.

As in the released corrector (second paper, section 3.3): a softmax over all queries of a window,
then weights normalised over the keys.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from oclr_jax.models.layers.initializers import attention_kernel
from oclr_jax.models.layers.linear import Linear
from oclr_jax.models.oclr.transformer import MASKED_SCORE


def slot_weights(
    scores: Float[Array, "b heads q f n"],
    hidden: Bool[Array, "b q f"],
    valid: Bool[Array, "b f"],
    compete: bool = True,
) -> Float[Array, "b heads q f n"]:
    """Attention weights of the queries over the keys; they sum to 1 over (f, n).

    The weights of a query that sees no key are 0. (The published program divides by 0 there.)
    Logarithms keep value and gradient finite where a query loses every key.

    Args:
      scores: of q queries for f frames with n keys each.
      hidden: the frames that a query does not see. The keys of a frame that all queries do not see
        belong to all of them equally.
      valid: False for frames of padding, whose keys get no weight.
      compete: softmax over the queries first; without it, this is ordinary attention.
    """
    scores = jnp.where(hidden[:, None, :, :, None], MASKED_SCORE, scores)
    if compete:
        scores = jax.nn.log_softmax(scores, axis=2)
    scores = jnp.where(valid[:, None, None, :, None], scores, 2 * MASKED_SCORE)
    best = scores.max(axis=(3, 4), keepdims=True)
    shape = scores.shape
    weights = jax.nn.softmax(scores.reshape(*shape[:3], -1), axis=-1).reshape(shape)
    return jnp.where(best > MASKED_SCORE / 2, weights, 0.0)


class SlotAttention(nn.Module):
    """Multi-head slot attention of queries to the keys of frames.

    Attributes:
      heads: attention heads.
      compete: as in `slot_weights`.
      dtype: compute dtype; scores and weights are float32.
    """

    heads: int
    compete: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b q c"],
        keys: Float[Array, "b f n c"],
        hidden: Bool[Array, "b q f"],
        valid: Bool[Array, "b f"],
    ) -> Float[Array, "b q c"]:
        """The update of every query; `hidden` and `valid` as in `slot_weights`."""
        channels = queries.shape[-1]

        def project(name, x):
            x = Linear(channels, self.dtype, attention_kernel, name=name)(x)
            return x.reshape(*x.shape[:-1], self.heads, -1)

        query, key, value = project("query", queries), project("key", keys), project("value", keys)
        query = query / np.sqrt(query.shape[-1]).astype(query.dtype)
        scores = jnp.einsum("bqhd,bfnhd->bhqfn", query, key, preferred_element_type=jnp.float32)
        weights = slot_weights(scores, hidden, valid, self.compete).astype(value.dtype)
        update = jnp.einsum("bhqfn,bfnhd->bqhd", weights, value).reshape(queries.shape)
        return Linear(channels, self.dtype, name="output")(update)

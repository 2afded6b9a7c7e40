"""Transformer of the bottleneck: post-norm encoder and decoder layers.

As in the released OCLR program: layer norm with the unbiased standard deviation; dropout on
residual branches, hidden feed-forward units and attention weights; encoder self-attention that
masks the tokens of the same frame, so that a frame is explained by the others. First paper,
section 2.2 and supplement, figure A6.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from oclr_jax.models.layers.initializers import attention_kernel
from oclr_jax.models.layers.linear import Linear

NORM_EPSILON = 1e-5
# Finite, so that a row whose keys are all masked (a clip of one frame) is a plain mean, not NaN.
MASKED_SCORE = -1e9
# Attention weights that are computed at a time for each clip: 2 MiB in float32, which stays in the
# caches of a CPU core and in the vector memory of a TPU. Not for the batch, whose size is open in
# exported programs.
SCORES_AT_A_TIME = 2**19


class UnbiasedLayerNorm(nn.Module):
    """`w (x - mean) / (std + 1e-5) + b` over channels, with the unbiased std, in float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "... c"]) -> Float[Array, "... c"]:
        channels = x.shape[-1]
        weight = self.param("weight", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / (channels - 1)
        # The gradient of the root is infinite at 0, where all channels are equal.
        deviation = jnp.sqrt(jnp.maximum(variance, 1e-20))
        return (weight * centred / (deviation + NORM_EPSILON) + bias).astype(x.dtype)


def attend(
    query: Float[Array, "b n d"],
    key: Float[Array, "b m d"],
    value: Float[Array, "b m d"],
    dropped: Bool[Array, "b n m"] | None = None,
    keep_rate: float = 1.0,
    same_frame: Bool[Array, "n m"] | None = None,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n d"]:
    """Scaled dot-product attention of one head; the softmax is float32.

    Args:
      query, key, value: `b` batch, `n` queries, `m` keys, `d` channels of the head.
      dropped: attention weights that dropout sets to 0, or None.
      keep_rate: the fraction of weights that dropout keeps.
      same_frame: True for the keys of a query's own frame, which are masked.
      valid: False for the keys of padding. They get no weight, even where all others are masked.
    """
    query = query / np.sqrt(query.shape[-1]).astype(query.dtype)
    scores = jnp.einsum("bnd,bmd->bnm", query, key, preferred_element_type=jnp.float32)
    if same_frame is not None:
        scores = jnp.where(same_frame, MASKED_SCORE, scores)
    if valid is not None:
        scores = jnp.where(valid[:, None], scores, 2 * MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    if dropped is not None:
        weights = jnp.where(dropped, 0.0, weights / keep_rate)
    return jnp.einsum("bnm,bmd->bnd", weights, value)


def dropout_mask(
    key: PRNGKeyArray, rate: float, shape: tuple[int, int, int]
) -> Bool[Array, "b n m"]:
    """True with probability `rate`, to a resolution of 1/65536.

    Uses 16 random bits per element. With 32, generating random bits takes a tenth of a training
    step.
    """
    b, n, m = shape
    bits = jax.random.bits(key, (b, n, (m + 1) // 2), jnp.uint32)
    halves = jnp.concatenate([bits >> 16, bits & 0xFFFF], axis=-1)[..., :m]
    return halves < round(rate * 2**16)


def attend_in_parts(
    query: Float[Array, "h b n d"],
    key: Float[Array, "h b m d"],
    value: Float[Array, "h b m d"],
    random_key: PRNGKeyArray | None,
    dropout: float,
    frames: int | None,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, "h b n d"]:
    """Attention of all heads, one head and a part of its queries after the other.

    The n x m weights are by far the largest arrays of the model, and cost more to store than to
    compute. Only those of a part exist at a time, and the backward pass recomputes them.

    Args:
      query, key, value: `h` heads, otherwise as in `attend`.
      random_key: of the dropout of attention weights; None without dropout.
      dropout: the fraction of weights that are dropped.
      frames: number of equal runs of tokens, one per frame. If given, queries and keys are the same
        tokens, and the keys of a query's own frame are masked.
      valid: as in `attend`.
    """
    heads, b, n, d = query.shape
    m = key.shape[2]
    parts = min(n, -(-n * m // SCORES_AT_A_TIME))
    rows = -(-n // parts)
    query = jnp.pad(query, ((0, 0), (0, 0), (0, parts * rows - n), (0, 0)))
    query = query.reshape(heads, b, parts, rows, d).transpose(0, 2, 1, 3, 4)
    # Queries of padding are in no frame of the clip. One copy for each head: what is the same for
    # all heads is computed before the loop over them, and the mask of a whole clip is 12 MB.
    frame = None
    if frames:
        frame = jnp.arange(parts * rows).reshape(parts, rows) // (n // frames)
        frame = jnp.broadcast_to(frame, (heads, parts, rows))
    keys = None if random_key is None else jax.random.split(random_key, (heads, parts))

    @jax.checkpoint
    def attend_part(query, key, value, frame, random_key):
        key, value = key.astype(query.dtype), value.astype(query.dtype)
        shape = (b, rows, m)
        dropped = None if random_key is None else dropout_mask(random_key, dropout, shape)
        same_frame = None
        if frames:
            same_frame = frame[:, None] == (jnp.arange(m) // (n // frames))[None]
        return attend(query, key, value, dropped, 1.0 - dropout, same_frame, valid)

    def attend_head(inputs):
        query, key, value, frame, keys = inputs
        # In float32, so that the gradients of all parts are summed in float32.
        key, value = key.astype(jnp.float32), value.astype(jnp.float32)
        return jax.lax.map(
            lambda x: attend_part(x[0], key, value, x[1], x[2]), (query, frame, keys)
        )

    out = jax.lax.map(attend_head, (query, key, value, frame, keys))
    return out.transpose(0, 2, 1, 3, 4).reshape(heads, b, parts * rows, d)[:, :, :n]


class MultiHeadAttention(nn.Module):
    """Multi-head attention of tokens to a memory."""

    heads: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n c"],
        memory: Float[Array, "b m c"],
        *,
        frames: int | None = None,
        valid: Bool[Array, "b m"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b n c"]:
        """Attends from `tokens` to `memory`; `frames` and `valid` as in `attend`."""
        channels = tokens.shape[-1]

        def project(name, x):
            x = Linear(channels, self.dtype, attention_kernel, name=name)(x)
            return x.reshape(*x.shape[:2], self.heads, -1).transpose(2, 0, 1, 3)

        query = project("query", tokens)
        key, value = project("key", memory), project("value", memory)
        dropping = train and self.dropout > 0.0
        random_key = self.make_rng("dropout") if dropping else None
        heads = attend_in_parts(query, key, value, random_key, self.dropout, frames, valid)
        heads = heads.transpose(1, 2, 0, 3).reshape(tokens.shape)
        return Linear(channels, self.dtype, name="output")(heads)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU and dropout between them."""

    hidden: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], *, train: bool) -> Float[Array, "b n c"]:
        hidden = Linear(self.hidden, self.dtype, name="linear1")
        output = Linear(x.shape[-1], self.dtype, name="linear2")
        x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(hidden(x)))
        return output(x)


class EncoderLayer(nn.Module):
    """Self-attention across frames, feed-forward."""

    heads: int
    feedforward: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "b n c"],
        frames: int,
        train: bool,
        valid: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n c"]:
        """Returns the tokens; `frames` and `valid` as in `attend`."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        attention = MultiHeadAttention(self.heads, self.dropout, self.dtype, name="self_attention")
        update = attention(tokens, tokens, frames=frames, valid=valid, train=train)
        tokens = UnbiasedLayerNorm(name="norm1")(tokens + drop(update))
        feed_forward = FeedForward(self.feedforward, self.dropout, self.dtype, name="feed_forward")
        return UnbiasedLayerNorm(name="norm2")(tokens + drop(feed_forward(tokens, train=train)))


class DecoderLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the encoder tokens, feed-forward."""

    heads: int
    feedforward: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, queries: Float[Array, "b q c"], memory: Float[Array, "b n c"], train: bool
    ) -> Float[Array, "b q c"]:
        drop = nn.Dropout(self.dropout, deterministic=not train)
        sizes = (self.heads, self.dropout, self.dtype)
        update = MultiHeadAttention(*sizes, name="self_attention")(queries, queries, train=train)
        queries = UnbiasedLayerNorm(name="norm1")(queries + drop(update))
        update = MultiHeadAttention(*sizes, name="cross_attention")(queries, memory, train=train)
        queries = UnbiasedLayerNorm(name="norm2")(queries + drop(update))
        feed_forward = FeedForward(self.feedforward, self.dropout, self.dtype, name="feed_forward")
        return UnbiasedLayerNorm(name="norm3")(queries + drop(feed_forward(queries, train=train)))

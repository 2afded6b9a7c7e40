"""The image encoder of Segment Anything: a vision transformer with windowed attention."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.sam.config import SAMConfig

NORM_EPSILON = 1e-6
# Attention scores held at once.
MAX_SCORES = 2**22


class ImageEncoder(nn.Module):
    """Blocks of attention in windows, and a few over the whole image; then a convolutional neck."""

    config: SAMConfig

    @nn.compact
    def __call__(self, images: Float[Array, "b s s 3"]) -> Float[Array, "b g g c"]:
        """The image embedding: `channels` features, and with `hq` the `width` channels of the
        tokens after the first global block behind them. Never below float32.
        """
        config, grid = self.config, self.config.grid
        patch = (config.patch, config.patch)
        tokens = nn.Conv(config.width, patch, patch, "VALID", dtype=config.dtype, name="patches")(
            images
        ).astype(images.dtype)
        shape = (1, grid, grid, config.width)
        tokens = tokens + self.param("positions", nn.initializers.truncated_normal(0.02), shape)
        early = []
        for index in range(config.depth):
            window = grid if index in config.global_blocks else config.window
            tokens = Block(config, window, name=f"blocks_{index}")(tokens)
            if config.hq and index == min(config.global_blocks):
                early = [tokens]

        def norm(name, x):
            return nn.LayerNorm(NORM_EPSILON, use_fast_variance=False, name=name)(x)

        def convolution(name, size, x):
            layer = nn.Conv(
                config.channels, (size, size), use_bias=False, dtype=config.dtype, name=name
            )
            return layer(x).astype(images.dtype)

        features = norm("neck_norm1", convolution("neck1", 1, tokens))
        features = norm("neck_norm2", convolution("neck2", 3, features))
        return jnp.concatenate([features, *early], axis=-1)


class Block(nn.Module):
    """Pre-norm transformer block on a grid of tokens.

    Attributes:
      window: side of the windows inside which the tokens attend; the grid's for all of them.
    """

    config: SAMConfig
    window: int

    @nn.compact
    def __call__(self, tokens: Float[Array, "b g g c"]) -> Float[Array, "b g g c"]:
        """Takes and returns tokens of the residual stream."""
        width, dtype = self.config.width, self.config.dtype

        def norm(name, x):
            return nn.LayerNorm(NORM_EPSILON, dtype, use_fast_variance=False, name=name)(x)

        def dense(name, features, x):
            return nn.Dense(features, dtype=dtype, name=name)(x)

        attended = Attention(self.config, self.window, name="attention")(norm("norm1", tokens))
        tokens = tokens + attended
        hidden = dense("hidden", 4 * width, norm("norm2", tokens))
        return tokens + dense("output", width, nn.gelu(hidden, approximate=False))


class Attention(nn.Module):
    """Self-attention in windows, with relative positions.

    The published model fills the grid up to whole windows with tokens of zeros, which take part in
    the softmax: key and value of each are the biases of the projection. Here such windows stay as
    small as they are, and the tokens of zeros of a window are one key, see `attend_in_window`.
    """

    config: SAMConfig
    window: int

    @nn.compact
    def __call__(self, x: Float[Array, "b g g c"]) -> Float[Array, "b g g c"]:
        """Normalised tokens to their update."""
        (batch, grid, _, width), heads = x.shape, self.config.heads
        dense = nn.Dense(3 * width, dtype=self.config.dtype, name="qkv")
        packed = dense(x)
        bias = jnp.asarray(dense.variables["params"]["bias"], packed.dtype).reshape(3, heads, -1)
        table = (2 * self.window - 1, width // heads)
        rows, columns = (
            jnp.asarray(self.param(name, nn.initializers.zeros, table), packed.dtype)
            for name in ("rows", "columns")
        )
        attended = []
        for top, down, height in split(grid, self.window):
            strip = []
            for left, across, breadth in split(grid, self.window):
                part = packed[:, top : top + down * height, left : left + across * breadth]
                part = part.reshape(batch, down, height, across, breadth, 3, heads, -1)
                part = part.transpose(5, 0, 1, 3, 6, 2, 4, 7)
                windows = part.reshape(3, -1, heads, height, breadth, part.shape[-1])
                found = attend_in_window(*windows, rows, columns, bias[1], bias[2])
                found = found.reshape(batch, down, across, heads, height, breadth, -1)
                found = found.transpose(0, 1, 4, 2, 5, 3, 6)
                strip.append(found.reshape(batch, down * height, across * breadth, width))
            attended.append(jnp.concatenate(strip, axis=2))
        attended = jnp.concatenate(attended, axis=1)
        return nn.Dense(width, dtype=self.config.dtype, name="projection")(attended)


def split(grid: int, window: int) -> list[tuple[int, int, int]]:
    """Start, number and side of the windows along an axis: the whole ones, then the rest."""
    whole, rest = divmod(grid, window)
    parts = [(0, whole, window), (whole * window, 1, rest)]
    return [part for part in parts if part[1] and part[2]]


def attend_in_window(
    query: Float[Array, "n k y x d"],
    key: Float[Array, "n k y x d"],
    value: Float[Array, "n k y x d"],
    rows: Float[Array, "r d"],
    columns: Float[Array, "r d"],
    empty_key: Float[Array, "k d"],
    empty_value: Float[Array, "k d"],
    max_scores: int = MAX_SCORES,
) -> Float[Array, "n k y x d"]:
    """Attention of k heads inside each of n windows.

    To the scaled product of a query at (y, x) and a key at (i, j), the products of the unscaled
    query with rows[y - i + S - 1] and columns[x - j + S - 1] are added.

    Args:
      query, key, value: of a window, or of its upper left part that the image fills.
      rows, columns: r = 2 S - 1 relative positions in a window of S x S.
      empty_key, empty_value: of every token in the rest of the window. Their scores differ by the
        positions alone, which are a sum of one term per axis. So their share of the softmax is a
        product of sums along the axes, and all of them together are one key.
      max_scores: how many scores are held at once; at least those of one row of queries.
    """
    n, k, height, breadth, _ = query.shape
    side = (len(rows) + 1) // 2
    place = np.arange(side)
    rows = rows[place[:height, None] - place + side - 1]
    columns = columns[place[:breadth, None] - place + side - 1]
    key, value = (part.reshape(n, k, height * breadth, -1) for part in (key, value))

    def attend(query, rows):
        return _attend_rows(query, key, value, rows, columns, empty_key, empty_value)

    at_once = max(1, max_scores // (n * k * breadth * height * breadth))
    chunks = -(-height // at_once)
    while height % chunks:
        chunks += 1
    if chunks == 1:
        return attend(query, rows)
    queries = jnp.moveaxis(query.reshape(n, k, chunks, -1, breadth, query.shape[-1]), 2, 0)
    found = jax.lax.map(
        lambda part: attend(*part), (queries, rows.reshape(chunks, -1, *rows.shape[1:]))
    )
    return jnp.moveaxis(found, 0, 2).reshape(query.shape)


def _attend_rows(query, key, value, rows, columns, empty_key, empty_value):
    """`attend_in_window` for some rows of queries; `rows` is [y i d] and `columns` [x j d]."""
    n, k, y, x, channels = query.shape
    exact = {"preferred_element_type": jnp.promote_types(query.dtype, jnp.float32)}
    by_row = jnp.einsum("nkyxd,yid->nkyxi", query, rows, **exact)
    by_column = jnp.einsum("nkyxd,xjd->nkyxj", query, columns, **exact)
    query = query / np.sqrt(channels).astype(query.dtype)
    flat = query.reshape(n, k, y * x, channels)
    scores = jnp.einsum("nkqd,nkmd->nkqm", flat, key, **exact)
    breadth = len(columns)
    height = key.shape[2] // breadth
    scores = scores.reshape(n, k, y, x, height, breadth)
    scores += by_row[..., :height, None] + by_column[..., None, :breadth]
    peak = scores.max((-2, -1))
    partial = height < by_row.shape[-1] or breadth < by_column.shape[-1]
    if partial:
        empty = jnp.einsum("nkyxd,kd->nkyx", query, empty_key, **exact)
        empty += _log_share(by_row, by_column, height, breadth)
        peak = jnp.maximum(peak, empty)
    weights = jnp.exp(scores - peak[..., None, None])
    total = weights.sum((-2, -1))
    weights = weights.reshape(n, k, y * x, -1).astype(value.dtype)
    found = jnp.einsum("nkqm,nkmd->nkqd", weights, value, **exact).reshape(query.shape)
    if partial:
        share = jnp.exp(empty - peak)
        total += share
        found += share[..., None] * empty_value[:, None, None]
    return (found / total[..., None]).astype(value.dtype)


def _log_share(
    by_row: Float[Array, "*n i"], by_column: Float[Array, "*n j"], height: int, breadth: int
) -> Float[Array, "*n"]:
    """Logarithm of the sum of exp(by_row[i] + by_column[j]) over all i, j outside the part that
    has `height` rows and `breadth` columns.
    """
    parts = []
    if height < by_row.shape[-1]:
        below = jax.nn.logsumexp(by_row[..., height:], axis=-1)
        parts.append(below + jax.nn.logsumexp(by_column, axis=-1))
    if breadth < by_column.shape[-1]:
        beside = jax.nn.logsumexp(by_column[..., breadth:], axis=-1)
        parts.append(beside + jax.nn.logsumexp(by_row[..., :height], axis=-1))
    return jax.nn.logsumexp(jnp.stack(parts), axis=0)

"""Affinity of image features between frames, for copying labels from one frame to the next.

Mask propagation of the first paper (supplement C, equation 10), as in Jabri et al., "Space-Time
Correspondence as a Contrastive Random Walk" (NeurIPS 2020).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Sides of the blocks of target cells that share one window of each source. Smaller blocks compare
# fewer cells outside the neighbourhood, larger ones copy fewer windows.
BLOCK = (12, 13)


@partial(jax.jit, static_argnames=("radius", "top", "block"))
def nearest_cells(
    target: Float[Array, "h w c"],
    sources: tuple[Float[Array, "h w c"], ...],
    valid: Bool[Array, " s"],
    radius: int,
    top: int,
    temperature: Float[Array, ""] | float,
    block: tuple[int, int] = BLOCK,
) -> tuple[Float[Array, "h w top"], Int[Array, "h w top"]]:
    """The cells of all sources that resemble each target cell most, and their weights.

    Only cells in the square neighbourhood of the target cell count; the best are chosen over all
    sources together. Weights are exp(similarity / temperature), normalised to a sum of 1.

    Args:
      target, sources: features of unit length, so that their product is the cosine similarity.
      valid: which of the s sources count; at least one.
      radius: half side of the neighbourhood, in cells.
      top: cells per target cell.
      temperature: of the weights.
      block: rows and columns of the target that are compared at once.

    Returns:
      weights, and the indices of the cells in `[s h w]`, flattened. Where a neighbourhood has fewer
      than `top` cells, the weights of the others are 0 and their indices are arbitrary.
    """
    height, width, channels = target.shape
    rows, columns = block
    down, across = -(-height // rows), -(-width // columns)
    below, right = down * rows - height, across * columns - width
    window = (rows + 2 * radius, columns + 2 * radius)
    padding = ((radius, radius + below), (radius, radius + right), (0, 0))
    padded = jnp.stack([jnp.pad(source, padding) for source in sources])
    blocks = jnp.pad(target, ((0, below), (0, right), (0, 0)))
    near = jnp.asarray(_within(rows, window[0], radius, columns, window[1]))

    def compare(corner):
        y, x = corner
        cells = jax.lax.dynamic_slice(blocks, (y, x, 0), (rows, columns, channels))
        seen = jax.lax.dynamic_slice(padded, (0, y, x, 0), (len(sources), *window, channels))
        similarity = jnp.einsum(
            "nc,smc->nsm",
            cells.reshape(-1, channels),
            seen.reshape(len(sources), -1, channels),
            preferred_element_type=jnp.float32,
        )
        source_y = y - radius + jnp.arange(window[0])[:, None]
        source_x = x - radius + jnp.arange(window[1])
        inside = (source_y >= 0) & (source_y < height) & (source_x >= 0) & (source_x < width)
        allowed = (near & inside.reshape(-1))[:, None] & valid[:, None]
        similarity = jnp.where(allowed, similarity, -jnp.inf).reshape(rows * columns, -1)
        best, index = jax.lax.top_k(similarity, top)
        source, cell = jnp.divmod(index, window[0] * window[1])
        row, column = jnp.divmod(cell, window[1])
        row = jnp.clip(row + y - radius, 0, height - 1)
        column = jnp.clip(column + x - radius, 0, width - 1)
        weights = jax.nn.softmax(best / temperature, axis=-1)
        return weights, (source * height + row) * width + column

    corners = jnp.stack(
        jnp.meshgrid(jnp.arange(down) * rows, jnp.arange(across) * columns, indexing="ij"), -1
    )
    weights, index = jax.lax.map(compare, corners.reshape(-1, 2))

    def whole(parts):
        parts = parts.reshape(down, across, rows, columns, top).swapaxes(1, 2)
        return parts.reshape(down * rows, across * columns, top)[:height, :width]

    return whole(weights), whole(index)


def _within(rows: int, window_rows: int, radius: int, columns: int, window_columns: int):
    """Which cells of a window are in the neighbourhood of each cell of its block, `[n m]`."""
    near_rows = np.abs(np.arange(window_rows) - radius - np.arange(rows)[:, None]) <= radius
    near_columns = (
        np.abs(np.arange(window_columns) - radius - np.arange(columns)[:, None]) <= radius
    )
    near = near_rows[:, None, :, None] & near_columns[None, :, None, :]
    return near.reshape(rows * columns, window_rows * window_columns)

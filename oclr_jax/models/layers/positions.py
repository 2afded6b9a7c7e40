"""Learned position embedding: a linear layer on a regular grid of coordinates."""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.initializers import dense_kernel


def coordinate_grid(sizes: tuple[int, ...]) -> np.ndarray:
    """Coordinates in [-1, 1] along every axis of a grid.

    Args:
      sizes: length of each axis, for example (t, h, w).

    Returns:
      float32 `[*sizes, len(sizes)]`, last axis in the order of `sizes`; -1 for an axis of length 1.
    """
    axes = [np.linspace(-1.0, 1.0, size, dtype=np.float32) for size in sizes]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


class PositionEmbedding(nn.Module):
    """A linear function of grid coordinates, to be added to features (first paper, section 2.2).

    Attributes:
      features: number of channels c.
      dtype: compute dtype; parameters stay float32.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, sizes: tuple[int, ...]) -> Float[Array, "... c"]:
        """Embedding `[*sizes, c]` of a grid of these sizes."""
        grid = jnp.asarray(coordinate_grid(sizes))
        # Coordinates such as 2/29 are inexact in bfloat16, so the product is computed in float32.
        embedding = nn.Dense(self.features, kernel_init=dense_kernel, name="linear")(grid)
        return embedding.astype(self.dtype)

"""Distances of pixels from masks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mask_distance(masks: Bool[Array, "*n h w"]) -> Float[Array, "*n h w"]:
    """The Euclidean distance of each pixel from the nearest pixel of the mask, in pixels.

    It is 0 inside the mask, and everywhere where the mask is empty. The cost grows with
    h w^2: first along columns, then along rows.
    """
    height, width = masks.shape[-2:]
    far = height + width
    rows = jnp.arange(height)[:, None]
    above = jax.lax.cummax(jnp.where(masks, rows, -far), axis=masks.ndim - 2)
    below = jax.lax.cummin(jnp.where(masks, rows, height + far), axis=masks.ndim - 2, reverse=True)
    vertical = jnp.minimum(rows - above, below - rows).astype(jnp.float32)
    columns = jnp.arange(width, dtype=jnp.float32)
    horizontal = columns[:, None] - columns
    square = jnp.square(vertical)[..., None, :] + jnp.square(horizontal)
    found = masks.any(axis=(-2, -1), keepdims=True)
    return jnp.where(found, jnp.sqrt(square.min(axis=-1)), 0.0)

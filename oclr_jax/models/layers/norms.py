"""Instance normalisation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

INSTANCE_NORM_EPSILON = 1e-5


def instance_norm(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Normalises every channel of every image over its pixels, without affine parameters.

    Statistics are computed in float32. The variance is the biased estimate; epsilon is 1e-5.

    Mean and variance need a single pass: they are those of the difference to the mean of the first
    row. The square of that row's distance to the mean is at most h times the variance, so the
    variance loses at most h times the precision of a float32 when it is subtracted.
    """
    # A row of `x`, because a compiler that gives out a row of `x32` stores all of it.
    row = jax.lax.stop_gradient(x[:, :1]).astype(jnp.float32)
    centred = x.astype(jnp.float32) - jnp.mean(row, axis=(1, 2), keepdims=True)
    mean = jnp.mean(centred, axis=(1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True) - jnp.square(mean)
    scale = jax.lax.rsqrt(variance + INSTANCE_NORM_EPSILON)
    return ((centred - mean) * scale).astype(x.dtype)

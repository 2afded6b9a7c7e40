"""Instance normalisation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

INSTANCE_NORM_EPSILON = 1e-5


def instance_norm(
    x: Float[Array, "n h w c"], shift: Float[Array, "n 1 1 c"] | None = None
) -> Float[Array, "n h w c"]:
    """Normalises every channel of every image over its pixels, without affine parameters.

    Statistics are computed in float32. The variance is the biased estimate; epsilon is 1e-5.

    Mean and variance need a single pass: they are those of the difference to `shift`, so the
    variance loses precision by the square of the distance from `shift` to the mean, over the
    variance.

    Args:
      shift: a guess of the mean, of which the result does not depend beyond rounding. None: the
        mean of the first row, whose squared distance is at most h times the variance.
    """
    if shift is None:
        # A row of `x`, because a compiler that gives out a row of float32 stores all of it.
        shift = jnp.mean(x[:, :1].astype(jnp.float32), axis=(1, 2), keepdims=True)
    centred = x.astype(jnp.float32) - jax.lax.stop_gradient(shift)
    mean = jnp.mean(centred, axis=(1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=(1, 2), keepdims=True) - jnp.square(mean)
    scale = jax.lax.rsqrt(variance + INSTANCE_NORM_EPSILON)
    return ((centred - mean) * scale).astype(x.dtype)

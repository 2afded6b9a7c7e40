"""Instance normalisation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

INSTANCE_NORM_EPSILON = 1e-5


def instance_norm(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """Normalises every channel of every image over its pixels, without affine parameters.

    Statistics are computed in float32. The variance is the biased estimate; epsilon is 1e-5.
    """
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, axis=(1, 2), keepdims=True)
    variance = jnp.mean(jnp.square(x32 - mean), axis=(1, 2), keepdims=True)
    scale = jax.lax.rsqrt(variance + INSTANCE_NORM_EPSILON)
    return ((x32 - mean) * scale).astype(x.dtype)

"""Linear layers whose biases are learned as exactly in bfloat16 as in float32."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.initializers import dense_kernel


def add_bias(x: Float[Array, "*s c"], bias: Float[Array, "c"]) -> Float[Array, "*s c"]:
    """Adds a bias in the more exact type of the two; the result has the type of `x`.

    The gradient of the bias is a sum over all pixels or tokens. In bfloat16, some compilers stop
    counting where a term is less than a 256th of the sum.
    """
    return (x.astype(jnp.promote_types(x.dtype, bias.dtype)) + bias).astype(x.dtype)


class Linear(nn.Module):
    """A linear layer with bias, with the parameters of `nn.Dense`.

    Attributes:
      features: channels d of the result.
      dtype: of the product and the result; parameters are float32.
    """

    features: int
    dtype: jnp.dtype
    kernel_init: jax.nn.initializers.Initializer = dense_kernel

    @nn.compact
    def __call__(self, x: Float[Array, "*s c"]) -> Float[Array, "*s d"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return add_bias(x.astype(self.dtype) @ kernel.astype(self.dtype), bias)

"""Linear layers: the result of `nn.Dense`, and exact gradients of biases in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from oclr_jax.models.layers.initializers import dense_kernel
from oclr_jax.models.layers.linear import Linear
from oclr_jax.models.oclr.unet import MaskLogits, Upsample

BFLOAT16 = jnp.dtype("bfloat16")
LAYERS = {
    "linear": Linear(4, BFLOAT16),
    "upsample": Upsample(4, BFLOAT16),
    "folded upsample": Upsample(4, BFLOAT16, frames=2),
    "logits": MaskLogits(4, BFLOAT16),
}


def test_parameters_and_result_are_those_of_dense():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 7, 5), np.float32))
    layer, dense = Linear(4, jnp.dtype("float32")), nn.Dense(4, kernel_init=dense_kernel)
    variables = layer.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, variables, dense.init(jax.random.key(0), x))
    np.testing.assert_array_equal(layer.apply(variables, x), dense.apply(variables, x))


@pytest.mark.parametrize("name", LAYERS)
def test_gradient_of_a_bias_counts_every_pixel(name):
    layer, x = LAYERS[name], jnp.ones((1, 32, 48, 6), jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)

    @jax.jit
    @jax.grad
    def gradient(variables):
        return layer.apply(variables, x).astype(jnp.float32).sum()

    pixels = layer.apply(variables, x).size // 4
    # A sum of ones in bfloat16 ends at 256.
    np.testing.assert_allclose(gradient(variables)["params"]["bias"], pixels, rtol=1e-6)

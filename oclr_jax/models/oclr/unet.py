"""The U-Net around the transformer: encoder with skip connections, decoder to mask logits.

Every block is two 3x3 convolutions, each followed by instance norm and a leaky ReLU (first paper,
section 2.2 and supplement, table A4). As in the released program, the slope is 0.01 and the output
convolution is 1x1; table A4 says ReLU and 3x3.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.initializers import MASK_LOGIT_BIAS, conv_kernel, transposed_kernel
from oclr_jax.models.layers.norms import instance_norm

LEAKY_SLOPE = 0.01


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Maximum over 2x2 blocks. Height and width must be even."""
    n, h, w, c = x.shape
    # A reduction over two axes, because its gradient is a comparison. That of a window reduction is
    # a scatter, which is slow on every backend.
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


class ConvBlock(nn.Module):
    """Twice: 3x3 convolution without bias, instance norm (optional), leaky ReLU."""

    features: int
    instance_norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        for name in ("conv1", "conv2"):
            x = nn.Conv(
                self.features,
                (3, 3),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=conv_kernel,
                name=name,
            )(x)
            if self.instance_norm:
                x = instance_norm(x)
            x = nn.leaky_relu(x, LEAKY_SLOPE)
        return x


class Upsample(nn.Module):
    """Transposed 2x2 convolution with stride 2 and bias: each pixel becomes a 2x2 block."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        n, h, w, _ = x.shape
        # Blocks do not overlap, so this is one matrix product and a rearrangement of pixels.
        kernel = self.param("kernel", transposed_kernel, (x.shape[-1], 2, 2, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = jnp.einsum("nhwc,cijd->nhiwjd", x, kernel.astype(self.dtype))
        return x.reshape(n, 2 * h, 2 * w, self.features) + bias.astype(self.dtype)


class UNetEncoder(nn.Module):
    """Blocks with 2x2 max pooling between them.

    Attributes:
      channels: width of each level, the bottleneck last.
    """

    channels: tuple[int, ...]
    instance_norm: bool
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> list[Float[Array, "n _h _w _c"]]:
        """Features of every level, finest first, bottleneck last."""
        block = nn.remat(ConvBlock) if self.remat else ConvBlock
        levels = []
        for level, width in enumerate(self.channels):
            x = max_pool(x) if levels else x
            x = block(width, self.instance_norm, self.dtype, name=f"block{level + 1}")(x)
            levels.append(x)
        return levels


class UNetDecoder(nn.Module):
    """Upsampling with skip connections, then a 1x1 convolution to mask logits.

    Attributes:
      channels: width of each level as in the encoder, the bottleneck last.
      layers: number of mask channels k.
    """

    channels: tuple[int, ...]
    layers: int
    instance_norm: bool
    dtype: jnp.dtype
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "n _h _w _c"], skips: list[Float[Array, "n _h _w _c"]]
    ) -> Float[Array, "n h w k"]:
        """Float32 logits from bottleneck features `x` and `skips` (finest first)."""
        block = nn.remat(ConvBlock) if self.remat else ConvBlock
        for level in reversed(range(len(skips))):
            width = self.channels[level]
            x = Upsample(width, self.dtype, name=f"upsample{level + 1}")(x)
            x = jnp.concatenate([x, skips[level]], axis=-1)
            x = block(width, self.instance_norm, self.dtype, name=f"block{level + 1}")(x)
        logits = nn.Dense(
            self.layers,
            dtype=self.dtype,
            kernel_init=conv_kernel,
            bias_init=nn.initializers.constant(MASK_LOGIT_BIAS),
            name="logits",
        )
        x = logits(x)
        return x.astype(jnp.float32)

"""The U-Net around the transformer: encoder with skip connections, decoder to mask logits.

Every block is two 3x3 convolutions, each followed by instance norm and a leaky ReLU (first paper,
section 2.2 and supplement, table A4). As in the released program, the slope is 0.01 and the output
convolution is 1x1; table A4 says ReLU and 3x3.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.folding import block_diagonal, fold, frames_together, unfold
from oclr_jax.models.layers.initializers import MASK_LOGIT_BIAS, conv_kernel, transposed_kernel
from oclr_jax.models.layers.linear import add_bias
from oclr_jax.models.layers.norms import instance_norm

LEAKY_SLOPE = 0.01


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Maximum over 2x2 blocks. Height and width must be even."""
    n, h, w, c = x.shape
    # A reduction over two axes, because its gradient is a comparison. That of a window reduction is
    # a scatter, which is slow on every backend.
    return x.reshape(n, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


class Convolution(nn.Module):
    """3x3 convolution without bias, instance norm (optional), leaky ReLU.

    Attributes:
      features: channels d of the result.
      frames: that are folded into channels (`oclr_jax.models.layers.folding`).
    """

    features: int
    instance_norm: bool
    dtype: jnp.dtype
    frames: int = 1

    @nn.compact
    def __call__(self, *inputs: Float[Array, "n h w _c"]) -> Float[Array, "n h w d"]:
        """Convolves the concatenation of `inputs` along channels."""
        sizes = [x.shape[-1] // self.frames for x in inputs]
        kernel = self.param("kernel", conv_kernel, (3, 3, sum(sizes), self.features))
        kernels = jnp.split(kernel.astype(self.dtype), np.cumsum(sizes)[:-1], axis=2)
        kernel = jnp.concatenate([block_diagonal(k, self.frames) for k in kernels], axis=2)
        x = jnp.concatenate(inputs, axis=-1).astype(self.dtype)
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if self.instance_norm:
            # The mean if all rows were like the first one, and without a border. From the input,
            # because the statistics are then known when the convolution is.
            row = x[:, :1].astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
            y = instance_norm(y, row @ kernel.astype(jnp.float32).sum(axis=(0, 1)))
        return nn.leaky_relu(y, LEAKY_SLOPE)


class ConvBlock(nn.Module):
    """Two of `Convolution`."""

    features: int
    instance_norm: bool
    dtype: jnp.dtype
    frames: int = 1

    @nn.compact
    def __call__(self, *inputs: Float[Array, "n h w _c"]) -> Float[Array, "n h w d"]:
        sizes = (self.features, self.instance_norm, self.dtype, self.frames)
        x = Convolution(*sizes, name="conv1")(*inputs)
        return Convolution(*sizes, name="conv2")(x)


class Upsample(nn.Module):
    """Transposed 2x2 convolution with stride 2 and bias: each pixel becomes a 2x2 block.

    Attributes: as of `Convolution`.
    """

    features: int
    dtype: jnp.dtype
    frames: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        n, h, w, c = x.shape
        # Blocks do not overlap, so this is one matrix product and a rearrangement of pixels.
        shape = (c // self.frames, 2, 2, self.features)
        kernel = self.param("kernel", transposed_kernel, shape).astype(self.dtype)
        kernel = block_diagonal(kernel.transpose(1, 2, 0, 3), self.frames)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = jnp.einsum("nhwc,ijcd->nhiwjd", x, kernel)
        return add_bias(x.reshape(n, 2 * h, 2 * w, -1), jnp.tile(bias, self.frames))


class MaskLogits(nn.Module):
    """1x1 convolution with bias. Attributes: as of `Convolution`."""

    features: int
    dtype: jnp.dtype
    frames: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        shape = (x.shape[-1] // self.frames, self.features)
        kernel = self.param("kernel", conv_kernel, shape).astype(self.dtype)
        start = nn.initializers.constant(MASK_LOGIT_BIAS)
        bias = self.param("bias", start, (self.features,))
        return add_bias(x @ block_diagonal(kernel, self.frames), jnp.tile(bias, self.frames))


class UNetEncoder(nn.Module):
    """Blocks with 2x2 max pooling between them.

    Attributes:
      channels: width of each level, the bottleneck last.
      lanes: frames are folded into channels at levels with fewer channels than this.
    """

    channels: tuple[int, ...]
    instance_norm: bool
    dtype: jnp.dtype
    remat: bool
    lanes: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> list[Float[Array, "_n _h _w _c"]]:
        """Features of every level, finest first, bottleneck last; all but the last one folded."""
        block = nn.remat(ConvBlock) if self.remat else ConvBlock
        n, levels, folded = x.shape[0], [], 1
        for level, width in enumerate(self.channels):
            x = max_pool(x) if levels else x
            frames = frames_together(self.lanes, width)
            x, folded = fold(unfold(x, folded, n), frames), frames
            name = f"block{level + 1}"
            x = block(width, self.instance_norm, self.dtype, frames, name=name)(x)
            levels.append(x)
        return [*levels[:-1], unfold(levels[-1], folded, n)]


class UNetDecoder(nn.Module):
    """Upsampling with skip connections, then a 1x1 convolution to mask logits.

    Attributes:
      channels: width of each level as in the encoder, the bottleneck last.
      layers: number of mask channels k.
      lanes: as in the encoder.
    """

    channels: tuple[int, ...]
    layers: int
    instance_norm: bool
    dtype: jnp.dtype
    remat: bool
    lanes: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "n _h _w _c"], skips: list[Float[Array, "_n _h _w _c"]]
    ) -> Float[Array, "n h w k"]:
        """Float32 logits from bottleneck features `x` and `skips` (finest first, folded)."""
        block = nn.remat(ConvBlock) if self.remat else ConvBlock
        n, folded = x.shape[0], 1
        for level in reversed(range(len(skips))):
            width = self.channels[level]
            frames = frames_together(self.lanes, width)
            x, folded = fold(unfold(x, folded, n), frames), frames
            x = Upsample(width, self.dtype, frames, name=f"upsample{level + 1}")(x)
            name = f"block{level + 1}"
            x = block(width, self.instance_norm, self.dtype, frames, name=name)(x, skips[level])
        x = MaskLogits(self.layers, self.dtype, folded, name="logits")(x)
        return unfold(x, folded, n).astype(jnp.float32)

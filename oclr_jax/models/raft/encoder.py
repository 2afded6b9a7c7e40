"""RAFT's encoders: a residual network from a frame to features at an eighth of its size.

Teed and Deng: "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020), section
3.1 and the supplement's figure of the architecture.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.norms import instance_norm

# Initialization of the published encoders; that of the update operator is smaller.
encoder_kernel = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolution(
    features: int,
    size: tuple[int, int],
    dtype: jnp.dtype,
    stride: int = 1,
    kernel_init: Callable[..., Any] = encoder_kernel,
    **named: Any,
) -> nn.Conv:
    """A convolution with bias, padded by half its size on every side.

    With a stride, padding "SAME" would shift the grid by a pixel.
    """
    padding = [(side // 2, side // 2) for side in size]
    strides = (stride, stride)
    return nn.Conv(features, size, strides, padding, dtype=dtype, kernel_init=kernel_init, **named)


def pixel_linear(
    features: int,
    dtype: jnp.dtype,
    kernel_init: Callable[..., Any] = encoder_kernel,
    **named: Any,
) -> nn.Dense:
    """A 1x1 convolution with bias, as a matrix product."""
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, **named)


class Norm(nn.Module):
    """Instance norm without parameters, batch norm with stored statistics, or the identity.

    Batch statistics are never updated: the paper freezes them after its first stage, and the small
    model, the only one that is trained here, has none.
    """

    kind: str  # "instance", "batch" or "none"
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        if self.kind == "instance":
            return instance_norm(x)
        if self.kind == "batch":
            batch_norm = nn.BatchNorm(
                use_running_average=True, epsilon=1e-5, dtype=self.dtype, name="batch"
            )
            return batch_norm(x)
        return x


class ResidualBlock(nn.Module):
    """Residual block: convolutions, each with norm and ReLU, added to the input.

    Two 3x3 convolutions; or, as a bottleneck, 1x1, 3x3 and 1x1 with a quarter of the width in
    between. The stride is that of the (first) 3x3 convolution.
    """

    features: int
    stride: int
    bottleneck: bool
    norm: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
        norm = partial(Norm, self.norm, self.dtype)
        y = x
        if self.bottleneck:
            between = self.features // 4
            y = nn.relu(norm(name="norm1")(pixel_linear(between, self.dtype, name="conv1")(y)))
            y = convolution(between, (3, 3), self.dtype, self.stride, name="conv2")(y)
            y = nn.relu(norm(name="norm2")(y))
            last = pixel_linear(self.features, self.dtype, name="conv3")(y)
            y = nn.relu(norm(name="norm3")(last))
        else:
            y = convolution(self.features, (3, 3), self.dtype, self.stride, name="conv1")(y)
            y = nn.relu(norm(name="norm1")(y))
            y = convolution(self.features, (3, 3), self.dtype, name="conv2")(y)
            y = nn.relu(norm(name="norm2")(y))
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
            x = pixel_linear(self.features, self.dtype, name="shortcut")(x)
            x = norm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class Encoder(nn.Module):
    """Features of frames, at an eighth of their height and width.

    Attributes:
      widths: of the three stages; the first has the width of the first convolution.
      features: channels of the output.
      bottleneck: whether blocks are bottlenecks (the small model).
      norm: "instance", "batch" or "none".
      dtype: compute type.
    """

    widths: tuple[int, int, int]
    features: int
    bottleneck: bool
    norm: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, frames: Float[Array, "n h w 3"]) -> Float[Array, "n h8 w8 c"]:
        """`frames` in -1..1; height and width multiples of 8."""
        x = convolution(self.widths[0], (7, 7), self.dtype, stride=2, name="conv1")(
            frames.astype(self.dtype)
        )
        x = jax.nn.relu(Norm(self.norm, self.dtype, name="norm1")(x))
        for stage, width in enumerate(self.widths, start=1):
            for block in (0, 1):
                stride = 2 if stage > 1 and block == 0 else 1
                sizes = (width, stride, self.bottleneck, self.norm, self.dtype)
                x = ResidualBlock(*sizes, name=f"stage{stage}_block{block}")(x)
        return pixel_linear(self.features, self.dtype, name="output")(x)

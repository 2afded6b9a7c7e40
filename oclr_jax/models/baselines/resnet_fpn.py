"""A residual network with batch norm, and a feature pyramid on it: the backbone of Mask R-CNN.

He et al.: "Deep Residual Learning for Image Recognition" (CVPR 2016); Lin et al.: "Feature Pyramid
Networks for Object Detection" (CVPR 2017).
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.initializers import conv_kernel
from oclr_jax.models.raft.encoder import encoder_kernel

STRIDES = (4, 8, 16, 32, 64)  # of the levels of the pyramid
_EXPANSION = 4  # of a bottleneck's output
_MOMENTUM = 0.9  # of the moving averages of batch statistics


class BatchNorm(nn.Module):
    """Batch norm over all examples; over all devices too where their axis is named."""

    axis_name: str | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n h w c"]:
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=_MOMENTUM,
            epsilon=1e-5,
            dtype=self.dtype,
            axis_name=self.axis_name if train else None,
            name="norm",
        )
        return norm(x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm, added to the input."""

    features: int  # of the 3x3 convolution; the output has four times as many
    stride: int
    axis_name: str | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> Float[Array, "n _h _w d"]:
        def layer(name: str, x: Array, features: int, side: int, stride: int = 1) -> Array:
            conv = nn.Conv(
                features,
                (side, side),
                (stride, stride),
                [(side // 2, side // 2)] * 2,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=encoder_kernel,
                name=f"{name}_conv",
            )
            return BatchNorm(self.axis_name, self.dtype, name=f"{name}_norm")(conv(x), train)

        y = nn.relu(layer("first", x, self.features, 1))
        y = nn.relu(layer("second", y, self.features, 3, self.stride))
        y = layer("third", y, _EXPANSION * self.features, 1)
        if x.shape != y.shape:
            x = layer("shortcut", x, _EXPANSION * self.features, 1, self.stride)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Features at strides 4, 8, 16 and 32.

    Attributes:
      stem: width of the first convolution and the first stage; 64 in ResNet-50.
      blocks: of each stage; (3, 4, 6, 3) in ResNet-50.
      axis_name: as in `BatchNorm`.
      dtype: compute dtype.
    """

    stem: int
    blocks: tuple[int, ...]
    axis_name: str | None
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"], train: bool) -> list[Float[Array, "n _h _w _c"]]:
        x = nn.Conv(
            *(self.stem, (7, 7), (2, 2), [(3, 3)] * 2),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=encoder_kernel,
            name="stem_conv",
        )(x)
        x = nn.relu(BatchNorm(self.axis_name, self.dtype, name="stem_norm")(x, train))
        x = nn.max_pool(x, (3, 3), (2, 2), [(1, 1)] * 2)
        levels = []
        for stage, count in enumerate(self.blocks):
            for index in range(count):
                stride = 2 if stage and not index else 1
                sizes = (self.stem * 2**stage, stride, self.axis_name, self.dtype)
                x = Bottleneck(*sizes, name=f"stage{stage + 1}_block{index + 1}")(x, train)
            levels.append(x)
        return levels


class FeaturePyramid(nn.Module):
    """Features of one width at all `STRIDES`, the coarsest one subsampled from the one before."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, levels: list[Float[Array, "n _h _w _c"]]
    ) -> list[Float[Array, "n _h _w {self.features}"]]:
        def conv(name: str, x: Array, side: int) -> Array:
            layer = nn.Conv(
                self.features, (side, side), dtype=self.dtype, kernel_init=conv_kernel, name=name
            )
            return layer(x)

        merged, pyramid = None, []
        for number, level in reversed(list(enumerate(levels, start=1))):
            lateral = conv(f"lateral{number}", level, 1)
            if merged is not None:
                lateral = lateral + merged.repeat(2, axis=1).repeat(2, axis=2)
            merged = lateral
            pyramid.insert(0, conv(f"output{number}", merged, 3))
        return [*pyramid, pyramid[-1][:, ::2, ::2]]

"""Backbones by name: image features for the mask selector and the mask corrector (second paper).

The paper uses DINO (section 3.2) and compares DINOv2 and MAE (table 9); these are frozen. `own` is
a small convolutional encoder that is trained from scratch together with the model that reads it, so
that nothing has to be downloaded.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.dino import DINO, DINOConfig
from oclr_jax.models.layers.initializers import conv_kernel
from oclr_jax.models.layers.linear import Linear
from oclr_jax.models.oclr.unet import ConvBlock

OWN = "own"
# Frozen backbones: name -> name of their weights (`oclr weights`).
FROZEN = {
    "dino_vits16": "dino_deitsmall16_pretrain",
    "dino_vits8": "dino_deitsmall8_pretrain",
    "dinov2_vits14": "dinov2_vits14_pretrain",
    "mae_vitb16": "mae_pretrain_vit_base",
}
BACKBONES = (*FROZEN, OWN)
OWN_CHANNELS = (32, 64, 96, 128)  # of `own` at strides 2, 4, 8 and 16


class FrozenBackbone(NamedTuple):
    """A pretrained backbone that is not trained further."""

    config: DINOConfig
    variables: Any


class ConvBackbone(nn.Module):
    """The backbone `own`: strided convolutions with instance norm, then a linear layer.

    Attributes:
      stride: pixels per feature along each axis, a power of two up to 16.
      features: channels of the result.
      dtype: compute dtype.
    """

    stride: int
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Float[Array, "n H W 3"]) -> Float[Array, "n h w c"]:
        """Features of normalised images, float32, standardised over channels."""
        x = images.astype(self.dtype)
        for level in range(self.stride.bit_length() - 1):
            width = OWN_CHANNELS[level]
            downsample = nn.Conv(
                width,
                (3, 3),
                (2, 2),
                use_bias=False,
                dtype=self.dtype,
                kernel_init=conv_kernel,
                name=f"downsample{level + 1}",
            )
            x = ConvBlock(width, True, self.dtype, name=f"block{level + 1}")(downsample(x))
        x = Linear(self.features, self.dtype, name="output")(x)
        return nn.LayerNorm(use_bias=False, use_scale=False)(x.astype(jnp.float32))


def encode_frozen(
    config: DINOConfig, variables: Any, images: Float[Array, "n H W 3"], grid: tuple[int, int]
) -> Float[Array, "n h w c"]:
    """Features of a frozen backbone after its last block, without the class token, float32.

    Args:
      config, variables: of the backbone.
      images: from `normalize_images`. They are resized so that there is one patch per cell of the
        grid.
      grid: (rows, columns) of the result.
    """
    height, width = (side * config.patch for side in grid)
    if images.shape[1:3] != (height, width):
        images = jax.image.resize(images, (len(images), height, width, 3), "bilinear")
    (tokens,) = DINO(config).apply(variables, images)
    return tokens[:, 1:].reshape(len(images), *grid, -1)


def own_backbone(config: Any) -> ConvBackbone:
    """The backbone `own` of a selector or corrector of this configuration."""
    return ConvBackbone(config.stride, config.feature_channels, jnp.dtype(config.compute_dtype))


def encode_images(
    config: Any, params: Any, frozen: FrozenBackbone | None, images: Float[Array, "n H W 3"]
) -> Float[Array, "n h w c"]:
    """Features of normalised images for a selector or corrector.

    Args:
      config: of the model.
      params: of the model; with the backbone `own` they have its parameters.
      frozen: the backbone, unless it is `own`. Its features get no gradient.
    """
    if config.backbone == OWN:
        return own_backbone(config).apply({"params": params["backbone"]}, images)
    grid = images.shape[1] // config.stride, images.shape[2] // config.stride
    features = encode_frozen(frozen.config, frozen.variables, images, grid)
    return jax.lax.stop_gradient(features)

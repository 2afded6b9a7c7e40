"""The U-Net encoder of the second paper's models: frames and masks in, features of every level out.

As in the released programs, frames and masks have a block of their own at the first level.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.oclr.unet import ConvBlock, max_pool


class RGBMaskEncoder(nn.Module):
    """Convolution blocks with 2x2 max pooling between them.

    Attributes:
      channels: width of each level, finest first.
      dtype: compute dtype.
    """

    channels: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, images: Float[Array, "n h w 3"], masks: Float[Array, "g n h w m"]
    ) -> list[Float[Array, "gn _h _w _c"]]:
        """Features of every level, finest first, for each of `g` groups of masks.

        Args:
          images: normalised RGB, shared by all groups.
          masks: m masks of each image, encoded together.

        Returns:
          arrays with a leading axis of g * n, groups first.
        """

        def block(name, level, x):
            return ConvBlock(self.channels[level], True, self.dtype, name=name)(x)

        groups, *sizes = masks.shape
        rgb = block("rgb", 0, images.astype(self.dtype))
        mask = block("mask", 0, masks.reshape(-1, *sizes[1:]).astype(self.dtype))
        rgb = jnp.broadcast_to(rgb, (groups, *rgb.shape)).reshape(mask.shape)
        levels = [block("block1", 0, jnp.concatenate([rgb, mask], axis=-1))]
        for level in range(1, len(self.channels)):
            levels.append(block(f"block{level + 1}", level, max_pool(levels[-1])))
        return levels

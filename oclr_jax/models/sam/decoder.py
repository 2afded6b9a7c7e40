"""The mask decoder of Segment Anything and of HQ-SAM: image and prompts to masks."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.oclr.unet import Upsample
from oclr_jax.models.sam.config import SAMConfig
from oclr_jax.models.sam.encoder import NORM_EPSILON

MASKS = 4  # one for clear prompts, then three for ambiguous ones
LAYERS = 2
# Of the norms between the layers of attention; all others have the encoder's.
LAYER_EPSILON = 1e-5


class Masks(NamedTuple):
    """Predictions for n prompts on one image.

    logits: the mask for a clear prompt, then those for the three readings of an ambiguous one.
      They are on the square image at a quarter of its size; HQ-SAM's correction is in all of them.
    quality: the predicted IoU of each.
    """

    logits: Float[Array, "n 4 s s"]
    quality: Float[Array, "n 4"]


class MaskDecoder(nn.Module):
    """Attention of a few tokens to the image and back, then a product of tokens and features."""

    config: SAMConfig

    @nn.compact
    def __call__(
        self,
        embedding: Float[Array, "g g e"],
        positions: Float[Array, "g g c"],
        sparse: Float[Array, "n q c"],
        dense: Float[Array, "n _g _g c"],
    ) -> Masks:
        """Masks of n prompts on one image.

        Args:
          embedding: of the image, from `ImageEncoder`.
          positions, sparse, dense: from `PromptEncoder`.
        """
        config, count, grid = self.config, len(sparse), self.config.grid
        channels = config.channels
        embedding, early = embedding[..., :channels], embedding[..., channels:]
        counts = {"quality_token": 1, "mask_tokens": MASKS} | ({"hq_token": 1} if config.hq else {})
        learned = jnp.concatenate(
            [
                self.param(name, nn.initializers.normal(1.0), (number, channels))
                for name, number in counts.items()
            ]
        )
        learned = jnp.broadcast_to(learned, (count, *learned.shape))
        codes = jnp.concatenate([learned, sparse], axis=1)
        image = (embedding + dense).reshape(count, grid * grid, channels)
        places = positions.reshape(grid * grid, channels)
        found, image = TwoWayTransformer(config, name="transformer")(codes, image, places)

        image = image.reshape(count, grid, grid, channels)
        fine = upscale(channels // 4, channels // 8, "upscale", image)
        fine = nn.gelu(fine, approximate=False)
        weights = [mlp(channels, channels // 8, f"mask{i}_", found[:, 1 + i]) for i in range(MASKS)]
        logits = jnp.einsum("nmc,nyxc->nmyx", jnp.stack(weights, 1), fine)
        if config.hq:
            detail = self.detail(embedding, early, fine)
            weight = mlp(channels, channels // 8, "hq_mask_", found[:, 1 + MASKS])
            logits += jnp.einsum("nc,nyxc->nyx", weight, detail)[:, None]
        quality = mlp(config.quality_hidden, MASKS, "quality", found[:, 0])
        return Masks(logits, quality)

    def detail(
        self,
        embedding: Float[Array, "g g c"],
        early: Float[Array, "g g e"],
        fine: Float[Array, "n s s f"],
    ) -> Float[Array, "n s s f"]:
        """HQ-SAM's features: those of the masks joined with late and early ones of the image."""
        channels = self.config.channels
        image = upscale(channels // 4, channels // 8, "hq_embedding", embedding[None])
        image += upscale(channels, channels // 8, "hq_early", early[None])
        x = nn.Conv(channels // 4, (3, 3), name="hq_fine1")(fine)
        x = nn.LayerNorm(NORM_EPSILON, use_fast_variance=False, name="hq_fine_norm")(x)
        x = nn.gelu(x, approximate=False)
        return nn.Conv(channels // 8, (3, 3), name="hq_fine2")(x) + image


class TwoWayTransformer(nn.Module):
    """Layers in which tokens attend to each other, to the image, and the image to them."""

    config: SAMConfig

    @nn.compact
    def __call__(
        self,
        codes: Float[Array, "n q c"],
        image: Float[Array, "n m c"],
        places: Float[Array, "m c"],
    ) -> tuple[Float[Array, "n q c"], Float[Array, "n m c"]]:
        """Tokens and image after all layers.

        Args:
          codes: the tokens, which are also added to queries and keys in every layer.
          image: features of every place.
          places: their codes.
        """
        channels = self.config.channels

        def norm(name, x):
            return nn.LayerNorm(LAYER_EPSILON, use_fast_variance=False, name=name)(x)

        def attention(name, query, key, value, inner=channels // 2):
            return Attention(self.config.decoder_heads, inner, name=name)(query, key, value)

        tokens = codes
        for index in range(LAYERS):
            layer = f"layer{index}_"
            if index == 0:
                # Without position and residual, as published.
                tokens = attention(f"{layer}self", tokens, tokens, tokens, channels)
            else:
                coded = tokens + codes
                tokens += attention(f"{layer}self", coded, coded, tokens, channels)
            tokens = norm(f"{layer}norm1", tokens)
            tokens += attention(f"{layer}to_image", tokens + codes, image + places, image)
            tokens = norm(f"{layer}norm2", tokens)
            hidden = nn.Dense(self.config.decoder_hidden, name=f"{layer}hidden")(tokens)
            tokens += nn.Dense(channels, name=f"{layer}output")(nn.relu(hidden))
            tokens = norm(f"{layer}norm3", tokens)
            image += attention(f"{layer}to_tokens", image + places, tokens + codes, tokens)
            image = norm(f"{layer}norm4", image)
        tokens += attention("final_to_image", tokens + codes, image + places, image)
        return norm("final_norm", tokens), image


class Attention(nn.Module):
    """Multi-head attention with `inner` channels in all heads together."""

    heads: int
    inner: int

    @nn.compact
    def __call__(
        self, query: Float[Array, "n q c"], key: Float[Array, "n m c"], value: Float[Array, "n m c"]
    ) -> Float[Array, "n q c"]:
        """The update of every query."""

        def project(name, x):
            x = nn.Dense(self.inner, name=name)(x)
            return x.reshape(*x.shape[:2], self.heads, -1)

        scores = jnp.einsum("nqkd,nmkd->nkqm", project("query", query), project("key", key))
        weights = jax.nn.softmax(scores / math.sqrt(self.inner // self.heads), axis=-1)
        found = jnp.einsum("nkqm,nmkd->nqkd", weights, project("value", value))
        found = found.reshape(*query.shape[:2], self.inner)
        return nn.Dense(query.shape[-1], name="output")(found)


def upscale(
    hidden: int, outputs: int, name: str, x: Float[Array, "n h w c"]
) -> Float[Array, "n H W d"]:
    """Two transposed convolutions, to four times the size. To be called inside a module."""
    x = Upsample(hidden, x.dtype, name=f"{name}1")(x)
    x = nn.LayerNorm(NORM_EPSILON, use_fast_variance=False, name=f"{name}_norm")(x)
    return Upsample(outputs, x.dtype, name=f"{name}2")(nn.gelu(x, approximate=False))


def mlp(hidden: int, outputs: int, name: str, x: Float[Array, "n c"]) -> Float[Array, "n d"]:
    """Three dense layers with ReLU between them. To be called inside a module."""
    for index in range(2):
        x = nn.relu(nn.Dense(hidden, name=f"{name}{index}")(x))
    return nn.Dense(outputs, name=f"{name}2")(x)

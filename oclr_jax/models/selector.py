"""The mask selector: in which pixels flow-predicted masks are wrong, and so which are good.

Xie, Xie, Zisserman: "Appearance-Based Refinement for Object-Centric Motion Segmentation", section
3.2 and supplement, section A.1.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from oclr_jax.models.backbones import OWN, own_backbone
from oclr_jax.models.layers.initializers import dense_kernel
from oclr_jax.models.layers.linear import Linear
from oclr_jax.models.layers.rgb_mask_encoder import RGBMaskEncoder
from oclr_jax.models.oclr.transformer import EncoderLayer
from oclr_jax.models.oclr.unet import UNetDecoder
from oclr_jax.models.parameters import flatten
from oclr_jax.models.refinement_config import (
    check_counts,
    check_refinement_config,
    config_from_dict,
)

# Channels of an error map: false positives, correct pixels, false negatives.
FALSE_POSITIVE, CORRECT, FALSE_NEGATIVE = range(3)


@dataclass(frozen=True)
class SelectorConfig:
    """Dimensions and switches of the model. The defaults are those of the released model.

    Raises ValueError for values that make no model.
    """

    frames: int = 100  # most frames that are compared in one pass
    exemplars: int = 10  # t, masks selected per object
    height: int = 128  # rows of frames and masks
    width: int = 224  # columns of frames and masks
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)  # U-Net widths, bottleneck last
    layers: int = 3  # transformer layers
    heads: int = 8  # attention heads
    feedforward: int = 256  # hidden units of the feed-forward layers
    dropout: float = 0.1  # on residual branches, hidden units and attention weights
    backbone: str = "dino_vits16"  # one of `backbones.BACKBONES`
    feature_channels: int = 384  # of the backbone
    # "error_map", or "score": one number per mask, the variant of table 3.
    predicts: str = "error_map"
    compute_dtype: str = "float32"  # "float32" or "bfloat16"; parameters stay float32

    def __post_init__(self):
        check_counts(self, ("frames", "exemplars", "layers"))
        check_refinement_config(self)
        if self.predicts not in ("error_map", "score"):
            raise ValueError(f"predicts must be error_map or score: {self.predicts!r}")

    @property
    def stride(self) -> int:
        """Pixels per token along each axis."""
        return 2 ** (len(self.channels) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the tokens and of the backbone's features."""
        return self.height // self.stride, self.width // self.stride

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"channels": list(self.channels)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SelectorConfig":
        """Inverse of `to_dict`. Raises ValueError for missing, unknown or mistyped fields."""
        return config_from_dict(cls, values)


class SelectorOutput(NamedTuple):
    """Predictions for the masks of a batch of clips.

    quality: float32, higher = better; comparable over the frames of an object.
    error_logits: float32 logits of the channels of an error map; None where the model predicts
      scores.
    """

    quality: Float[Array, "b t k"]
    error_logits: Float[Array, "b t h w k 3"] | None


class Selector(nn.Module):
    """`model.apply({"params": params}, images, masks, features)`; objects are independent.

    With the backbone `own`, `params["backbone"]` has the parameters of `own_backbone(config)`.
    """

    config: SelectorConfig

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b t h w 3"],
        masks: Float[Array, "b t h w k"],
        features: Float[Array, "b t _h _w c"],
        length: Int[Array, "b"] | None = None,
        *,
        train: bool = False,
    ) -> SelectorOutput:
        """Judges masks.

        Args:
          images: from `normalize_images`.
          masks: foreground, 0 or 1, of any number of objects.
          features: of the backbone, one per token.
          length: number of frames of each clip; the others are padding, whose output has no
            meaning. None: all frames.
          train: enables dropout, with the key in `rngs={"dropout": key}`.

        Raises:
          ValueError: for a height or width that is not a multiple of the stride, or features that
            are not on the token grid.
        """
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        b, t, height, width, k = masks.shape
        if height % config.stride or width % config.stride:
            raise ValueError(f"{height}x{width} masks are not a multiple of {config.stride}")
        grid = height // config.stride, width // config.stride
        if features.shape[2:4] != grid:
            raise ValueError(f"features are on a grid of {features.shape[2:4]} and not {grid}")
        images = images.reshape(b * t, height, width, 3)
        per_object = jnp.moveaxis(masks, -1, 0).reshape(k, b * t, height, width, 1)
        encoder = RGBMaskEncoder(config.channels, dtype, name="encoder")
        *skips, bottleneck = encoder(images, per_object)
        tokens = self._tokens(bottleneck.reshape(k * b, t, *bottleneck.shape[1:]), features, length)
        valid = None
        if length is not None:
            frame = jnp.arange(t).repeat(grid[0] * grid[1])
            valid = frame[None] < jnp.tile(length, k)[:, None]
        sizes = (config.heads, config.feedforward, config.dropout, dtype)
        for i in range(config.layers):
            tokens = EncoderLayer(*sizes, name=f"encoder{i + 1}")(tokens, t, train, valid)
        if config.predicts == "score":
            return SelectorOutput(self._scores(tokens.reshape(k, b, t, -1, tokens.shape[-1])), None)
        decoder = UNetDecoder(config.channels, 3, True, dtype, False, name="decoder")
        logits = decoder(tokens.reshape(bottleneck.shape), skips)
        logits = jnp.moveaxis(logits.reshape(k, b, t, height, width, 3), 0, -2)
        return SelectorOutput(mask_quality(jax.nn.softmax(logits), masks), logits)

    def _tokens(
        self,
        bottleneck: Float[Array, "kb t h w _"],
        features: Float[Array, "b t h w c"],
        length: Int[Array, "b"] | None,
    ) -> Float[Array, "kb n d"]:
        """U-Net and backbone features of every object, projected, with positions added."""
        count, t, h, w, channels = bottleneck.shape
        objects = count // features.shape[0]
        features = jnp.tile(features, (objects, 1, 1, 1, 1)).astype(bottleneck.dtype)
        joined = jnp.concatenate([bottleneck, features], axis=-1)
        tokens = Linear(channels, bottleneck.dtype, name="projection")(joined)
        frames = jnp.full(features.shape[:1], t) if length is None else jnp.tile(length, objects)
        # In float32: coordinates such as 2/29 are inexact in bfloat16.
        position = nn.Dense(channels, kernel_init=dense_kernel, name="position")
        tokens = tokens + position(token_coordinates(frames, t, h, w)).astype(tokens.dtype)
        return tokens.reshape(count, t * h * w, channels)

    def _scores(self, tokens: Float[Array, "k b t n c"]) -> Float[Array, "b t k"]:
        """One score per mask, from its mean token; the sigmoid of it predicts the IoU."""
        mean = tokens.astype(jnp.float32).mean(axis=3)
        score = nn.Dense(1, kernel_init=dense_kernel, name="score")(mean)
        return jnp.moveaxis(score[..., 0], 0, -1)


def token_coordinates(frames: Int[Array, "b"], t: int, h: int, w: int) -> Float[Array, "b t h w 3"]:
    """(t, y, x) of tokens, in [-1, 1] along each axis; time ends at each clip's last frame.

    An axis of length 1 has the coordinate -1.
    """
    last = jnp.maximum(frames - 1, 1).astype(jnp.float32)
    time = 2 * jnp.arange(t) / last[:, None] - 1
    rows, columns = (jnp.linspace(-1, 1, size) for size in (h, w))
    shape = (len(frames), t, h, w)
    axes = (time[:, :, None, None], rows[:, None], columns)
    return jnp.stack([jnp.broadcast_to(axis, shape) for axis in axes], axis=-1)


def mask_quality(
    error_map: Float[Array, "*b h w k 3"], masks: Float[Array, "*b h w k"]
) -> Float[Array, "*b k"]:
    """The negative size of the predicted errors relative to a mask's area (supplement, A.1).

    Errors are summed as probabilities. One pixel is added to the area, so that an empty mask has a
    finite quality.
    """
    wrong = error_map[..., FALSE_POSITIVE] + error_map[..., FALSE_NEGATIVE]
    return -wrong.sum(axis=(-3, -2)) / (masks.sum(axis=(-3, -2)) + 1)


def init_params(config: SelectorConfig, seed: int) -> dict[str, Any]:
    """Random parameters, the same for the same seed; they do not depend on the frames' size."""
    side = config.stride
    images = jnp.zeros((1, 1, side, side, 3))
    features = jnp.zeros((1, 1, 1, 1, config.feature_channels))
    model_key, backbone_key = jax.random.split(jax.random.key(seed))
    params = Selector(config).init(model_key, images, images[..., :1], features)["params"]
    if config.backbone == OWN:
        params = {
            **params,
            "backbone": own_backbone(config).init(backbone_key, images[0])["params"],
        }
    return params


def parameter_shapes(config: SelectorConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the model, by its path `a/b/c`."""
    params = jax.eval_shape(lambda: init_params(config, 0))
    return {path: leaf.shape for path, leaf in flatten(params).items()}

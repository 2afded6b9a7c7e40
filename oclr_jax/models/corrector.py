"""The mask corrector: from flow-predicted masks and a few good ones to refined masks.

Xie, Xie, Zisserman: "Appearance-Based Refinement for Object-Centric Motion Segmentation", section
3.3 and supplement, section A.2.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from oclr_jax.models.backbones import OWN, own_backbone
from oclr_jax.models.layers.linear import Linear
from oclr_jax.models.layers.positions import PositionEmbedding
from oclr_jax.models.layers.rgb_mask_encoder import RGBMaskEncoder
from oclr_jax.models.layers.slot_attention import SlotAttention
from oclr_jax.models.oclr.transformer import FeedForward, MultiHeadAttention, UnbiasedLayerNorm
from oclr_jax.models.oclr.unet import UNetDecoder
from oclr_jax.models.parameters import flatten
from oclr_jax.models.refinement_config import (
    check_counts,
    check_refinement_config,
    config_from_dict,
)
from oclr_jax.ops.distance import mask_distance


@dataclass(frozen=True)
class CorrectorConfig:
    """Dimensions and switches of the model. The defaults are those of the released model.

    Raises ValueError for values that make no model.
    """

    objects: int = 3  # K, objects of a window
    backgrounds: int = 4  # K_bg, learned queries of the background
    frames: int = 7  # T, frames of a window
    exemplars: int = 10  # t, exemplar masks per object
    height: int = 128  # rows of frames and masks
    width: int = 224  # columns of frames and masks
    channels: tuple[int, ...] = (64, 128, 256, 512)  # U-Net widths, bottleneck last
    layers: int = 3  # transformer layers
    heads: int = 8  # attention heads; also attention maps per object
    feedforward: int = 384  # hidden units of the feed-forward layers
    dropout: float = 0.1  # on residual branches, hidden units and self-attention weights
    backbone: str = "dino_vits8"  # one of `backbones.BACKBONES`
    feature_channels: int = 384  # of the backbone and of the queries
    # What is upsampled to masks: "attention" maps; or the variants of table 5: the "alphas" of the
    # reconstruction, or tokens of "dense" queries, one per target token, instead of one per object.
    masks_from: str = "attention"
    # Added to the logits inside the given masks and subtracted outside, so that a training starts
    # with these masks and learns what is wrong with them. 0 as published.
    mask_logit: float = 0.0
    # Subtracted besides, per distance from the given mask in units of the object's size, so that
    # what looks like the object far away from it is not taken for it. 0 as published.
    distance_logit: float = 0.0
    # Whether `--refine correct` leaves an object as it was if its corrected masks agree less with
    # each other along the flow than those from before. False as published.
    keep_steady: bool = False
    compute_dtype: str = "float32"  # "float32" or "bfloat16"; parameters stay float32

    def __post_init__(self):
        check_counts(self, ("objects", "backgrounds", "frames", "exemplars", "layers"))
        check_refinement_config(self)
        if self.masks_from not in ("attention", "alphas", "dense"):
            raise ValueError(f"masks_from must be attention, alphas or dense: {self.masks_from!r}")
        if self.feature_channels % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.feature_channels} channels")

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
    def from_dict(cls, values: dict[str, Any]) -> "CorrectorConfig":
        """Inverse of `to_dict`. Raises ValueError for missing, unknown or mistyped fields."""
        return config_from_dict(cls, values)


class Exemplars(NamedTuple):
    """Good masks of every object, `e` per object; objects may have different exemplar frames.

    features: of the backbone in the exemplar frames.
    masks: of the object itself, 0 or 1.
    scores: weight of each exemplar, not negative.
    frames: number of the exemplar frame in the video.
    valid: False for padding.
    """

    features: Float[Array, "b e k _h _w c"]
    masks: Float[Array, "b e h w k"]
    scores: Float[Array, "b e k"]
    frames: Int[Array, "b e k"]
    valid: Bool[Array, "b e k"]


class CorrectorOutput(NamedTuple):
    """Predictions for a batch of windows, float32.

    mask_logits: of the refined masks, before the sigmoid.
    reconstruction: the backbone's features as the queries explain them; None with dense queries.
    alphas: share of every query in the reconstruction, objects first; None with dense queries.
    map_logits: mean of each object's attention maps over the heads; None if others are upsampled.
    """

    mask_logits: Float[Array, "b t h w k"]
    reconstruction: Float[Array, "b t _h _w c"] | None
    alphas: Float[Array, "b t _h _w q"] | None
    map_logits: Float[Array, "b t _h _w k"] | None


class Corrector(nn.Module):
    """`model.apply({"params": params}, images, masks, features, exemplars, frames)`.

    With the backbone `own`, `params["backbone"]` has the parameters of `own_backbone(config)`.

    Intermediates (`mutable=["intermediates"]`): `pooled`, `queries`, `maps` and
    `query_features`.
    """

    config: CorrectorConfig

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b t h w 3"],
        masks: Float[Array, "b t h w k"],
        features: Float[Array, "b t _h _w c"],
        exemplars: Exemplars,
        frames: Int[Array, "b t"],
        *,
        train: bool = False,
    ) -> CorrectorOutput:
        """Refines the masks of a window of consecutive frames.

        Args:
          images: from `normalize_images`.
          masks: flow-predicted masks, 0 or 1, of `config.objects` objects; those that the window
            does not have are empty.
          features: of the backbone, one per token.
          exemplars: of the same objects, from anywhere in the video.
          frames: numbers of the window's frames in the video. A query does not see exemplars of
            its own frame.
          train: enables dropout, with the key in `rngs={"dropout": key}`.

        Raises:
          ValueError: for another number of objects, a height or width that is not a multiple of
            the stride, or features that are not on the token grid.
        """
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        b, t, height, width, objects = masks.shape
        stride = config.stride
        if objects != config.objects:
            raise ValueError(f"{objects} objects, and the model is for {config.objects}")
        if height % stride or width % stride:
            raise ValueError(f"{height}x{width} masks are not a multiple of {stride}")
        grid = height // stride, width // stride
        if features.shape[2:4] != grid:
            raise ValueError(f"features are on a grid of {features.shape[2:4]} and not {grid}")
        features, dense = features.astype(dtype), config.masks_from == "dense"
        exemplars = exemplars._replace(features=exemplars.features.astype(dtype))
        channels = features.shape[-1]

        targets = features + PositionEmbedding(channels, dtype, name="position")((t, *grid))
        targets = targets.reshape(b, t, -1, channels)
        keys, valid = self._exemplar_keys(exemplars)
        # [k t] queries of objects and backgrounds, or [t n] of the target tokens.
        queries = targets if dense else self._queries(exemplars, t)
        shape = queries.shape

        def per_query(of_frames):
            """`[b t]` values of the queries' frames, for each query `[b n]`."""
            spread = of_frames[:, :, None] if dense else of_frames[:, None]
            return jnp.broadcast_to(spread, (b, *shape[1:3])).reshape(b, -1)

        place = jnp.broadcast_to(jnp.arange(t), (b, t))
        same_target = per_query(place)[:, :, None] == place[:, None]
        same_exemplar = per_query(frames)[:, :, None] == exemplars.frames.reshape(b, 1, -1)
        seen = jnp.ones((b, t), bool)
        queries = queries.reshape(b, -1, channels)
        sizes = (config.heads, config.feedforward, config.dropout, not dense, dtype)
        for i in range(config.layers):
            queries = CorrectorLayer(*sizes, name=f"layer{i + 1}")(
                queries, (targets, same_target, seen), (keys, same_exemplar, valid), train
            )
        queries = queries.reshape(shape)
        self.sow("intermediates", "queries", queries)
        reconstruction = alphas = alpha_logits = None
        if not dense:
            reconstruction, alphas, alpha_logits = self._reconstruct(queries, grid)
        maps, map_logits = self._maps(queries, targets, alpha_logits, grid)
        self.sow("intermediates", "maps", maps)

        images = images.reshape(b * t, height, width, 3)
        encoder = RGBMaskEncoder(config.channels[:-1], dtype, name="encoder")
        skips = encoder(images, masks.reshape(1, b * t, height, width, objects))
        mixed = Linear(config.channels[-1], dtype, name="mix")(maps)
        decoder = UNetDecoder(config.channels, objects, True, dtype, False, name="decoder")
        logits = decoder(mixed.reshape(b * t, *grid, -1), skips)
        logits = logits.reshape(b, t, height, width, -1) + config.mask_logit * (2 * masks - 1)
        if config.distance_logit:
            logits = logits - config.distance_logit * relative_distance(masks)
        return CorrectorOutput(logits, reconstruction, alphas, map_logits)

    def _queries(self, exemplars: Exemplars, t: int) -> Float[Array, "b q t c"]:
        """Queries of the objects, pooled from exemplars, and of the background, for each frame."""
        config, dtype = self.config, exemplars.features.dtype
        pooled = pool_exemplars(exemplars, config.stride)
        channels = pooled.shape[-1]
        self.sow("intermediates", "pooled", pooled)
        init = nn.initializers.normal(1.0)
        background = self.param("background", init, (config.backgrounds, channels))
        background = jnp.broadcast_to(background.astype(dtype), (len(pooled), *background.shape))
        queries = jnp.concatenate([pooled.astype(dtype), background], axis=1)
        return queries[:, :, None] + PositionEmbedding(channels, dtype, name="query_position")(
            (queries.shape[1], t)
        )

    def _exemplar_keys(
        self, exemplars: Exemplars
    ) -> tuple[Float[Array, "b f n c"], Bool[Array, "b f"]]:
        """Keys of all exemplars with their masks in them, and which are no padding; f = (e k)."""
        config, features = self.config, exemplars.features
        b, e, k, h, w, channels = features.shape
        dtype = features.dtype
        overlay = (center_mean(exemplars.masks, config.stride) > 0.5).astype(dtype)
        count = config.objects + config.backgrounds
        # The same embedding of the object's number as in the published program, of which only the
        # objects' entries are used.
        identity = PositionEmbedding(channels, dtype, name="object_identity")((count,))[:k]
        space = PositionEmbedding(channels, dtype, name="exemplar_position")((h, w))
        overlay = jnp.moveaxis(overlay, -1, 2)[..., None]  # b e k h w 1
        keys = features + space + identity[:, None, None] * overlay
        return keys.reshape(b, e * k, h * w, channels), exemplars.valid.reshape(b, e * k)

    def _reconstruct(
        self, queries: Float[Array, "b q t c"], grid: tuple[int, int]
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b t h w q"], Float[Array, "b q t h w 1"]]:
        """Features of the target frames, and the queries' shares in them (equation 7)."""
        config, dtype = self.config, queries.dtype
        channels = queries.shape[-1]

        def dense(size, name, x):
            return Linear(size, dtype, name=name)(x)

        space = PositionEmbedding(channels, dtype, name="broadcast_position")(grid)
        hidden = nn.relu(dense(channels, "reconstruction", queries[:, :, :, None, None] + space))
        features = dense(channels, "features", hidden).astype(jnp.float32)
        share = nn.relu(dense(config.channels[-1], "alpha1", hidden))
        logits = dense(1, "alpha2", share).astype(jnp.float32)
        self.sow("intermediates", "query_features", features)
        alphas = jax.nn.softmax(logits, axis=1)
        reconstruction = jnp.sum(alphas * features, axis=1)
        return reconstruction, jnp.moveaxis(alphas[..., 0], 1, -1), logits

    def _maps(
        self,
        queries: Float[Array, "b _q _t c"],
        targets: Float[Array, "b t n c"],
        alpha_logits: Float[Array, "b q t h w 1"] | None,
        grid: tuple[int, int],
    ) -> tuple[Float[Array, "b t h w d"], Float[Array, "b t h w k"] | None]:
        """Features to upsample, of each object from its maps, the objects' concatenated.

        Also the mean of its attention maps.
        """
        config, dtype = self.config, targets.dtype
        b, t, _, channels = targets.shape
        size = config.channels[-1]
        linear = Linear(size, dtype, name="map_linear")
        if config.masks_from == "dense":
            return nn.relu(linear(queries)).reshape(b, t, *grid, size), None
        mean = None
        if config.masks_from == "alphas":
            maps = alpha_logits[:, : config.objects].astype(dtype)
        else:
            # Plain dot products, as in the flow model.
            queries = queries[:, : config.objects].reshape(
                b, -1, t, config.heads, channels // config.heads
            )
            keys = targets.reshape(b, t, *grid, config.heads, -1)
            maps = jnp.einsum("bktnd,bthwnd->bkthwn", queries, keys)
            mean = jnp.moveaxis(maps.astype(jnp.float32).mean(axis=-1), 1, -1)
        maps = nn.relu(linear(maps))
        return jnp.moveaxis(maps, 1, 4).reshape(b, t, *grid, -1), mean


class CorrectorLayer(nn.Module):
    """Self-attention of the queries, attention to targets, and to exemplars, post-norm."""

    heads: int
    feedforward: int
    dropout: float
    compete: bool  # slot attention; see `slot_weights`
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, queries: Float[Array, "b q c"], targets: tuple, exemplars: tuple, train: bool
    ) -> Float[Array, "b q c"]:
        """Returns the queries; `targets`, `exemplars`: keys, hidden, valid as of SlotAttention."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        norms = iter(UnbiasedLayerNorm(name=f"norm{i + 1}") for i in range(5))

        def add(queries, update):
            return next(norms)(queries + drop(update))

        attention = MultiHeadAttention(self.heads, self.dropout, self.dtype, name="self_attention")
        queries = add(queries, attention(queries, queries, train=train))
        for name, keys in (("target", targets), ("exemplar", exemplars)):
            slots = SlotAttention(self.heads, self.compete, self.dtype, name=f"{name}_attention")
            queries = add(queries, slots(queries, *keys))
            feed = FeedForward(self.feedforward, self.dropout, self.dtype, name=f"{name}_feed")
            queries = add(queries, feed(queries, train=train))
        return queries


def relative_distance(masks: Float[Array, "b t h w k"]) -> Float[Array, "b t h w k"]:
    """The distance of pixels from an object's mask, in units of the object's size.

    The size is the square root of its largest area in the window. Where the object has no mask in
    a frame, the distance is 0: it may be anywhere.
    """
    area = masks.sum(axis=(2, 3), keepdims=True).max(axis=1, keepdims=True)
    distance = jnp.moveaxis(mask_distance(jnp.moveaxis(masks, -1, 2) > 0.5), 2, -1)
    return distance / jnp.sqrt(jnp.maximum(area, 1.0))


def pool_exemplars(exemplars: Exemplars, stride: int) -> Float[Array, "b k c"]:
    """The mean feature inside each object's exemplar masks, weighted by the scores.

    Masks are sampled at the first pixel of each cell. An empty mask counts as a feature of 0, and
    an object without exemplars has the feature 0.
    """
    inside = jnp.moveaxis(exemplars.masks[:, :, ::stride, ::stride], -1, 2)  # b e k h w
    features = exemplars.features.astype(jnp.float32)
    total = jnp.einsum("bekhw,bekhwc->bekc", inside, features)
    mean = total / jnp.maximum(inside.sum(axis=(3, 4)), 1.0)[..., None]
    weights = jnp.where(exemplars.valid, exemplars.scores, 0.0)
    weights = weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 1e-20)
    return jnp.einsum("bek,bekc->bkc", weights, mean)


def center_mean(masks: Float[Array, "*b H W k"], stride: int) -> Float[Array, "*b h w k"]:
    """Bilinear downsampling without antialiasing: the mean of the centre pixels of each cell."""
    low = (stride - 1) // 2
    parts = [
        masks[..., low + i :: stride, low + j :: stride, :]
        for i in range(stride // 2 - low + 1)
        for j in range(stride // 2 - low + 1)
    ]
    return sum(parts) / len(parts)


def init_params(config: CorrectorConfig, seed: int) -> dict[str, Any]:
    """Random parameters, the same for the same seed; they do not depend on the frames' size."""
    side, k, c = config.stride, config.objects, config.feature_channels
    images, masks = jnp.zeros((1, 2, side, side, 3)), jnp.zeros((1, 2, side, side, k))
    exemplars = Exemplars(
        features=jnp.zeros((1, 1, k, 1, 1, c)),
        masks=masks[:, :1],
        scores=jnp.ones((1, 1, k)),
        frames=jnp.zeros((1, 1, k), int),
        valid=jnp.ones((1, 1, k), bool),
    )
    inputs = (images, masks, jnp.zeros((1, 2, 1, 1, c)), exemplars, jnp.zeros((1, 2), int))
    model_key, backbone_key = jax.random.split(jax.random.key(seed))
    params = Corrector(config).init(model_key, *inputs)["params"]
    if config.backbone == OWN:
        params = {
            **params,
            "backbone": own_backbone(config).init(backbone_key, images[0])["params"],
        }
    return params


def parameter_shapes(config: CorrectorConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the model, by its path `a/b/c`."""
    params = jax.eval_shape(lambda: init_params(config, 0))
    return {path: leaf.shape for path, leaf in flatten(params).items()}

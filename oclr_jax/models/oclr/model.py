"""The OCLR model: from the optical flow of a clip to amodal mask logits and depths of K layers.

Xie, Xie, Zisserman: "Segmenting Moving Objects via an Object-Centric Layered Representation",
section 2.2 and supplement, section A.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.initializers import dense_kernel
from oclr_jax.models.layers.linear import Linear
from oclr_jax.models.layers.positions import PositionEmbedding
from oclr_jax.models.oclr.transformer import DecoderLayer, EncoderLayer
from oclr_jax.models.oclr.unet import UNetDecoder, UNetEncoder
from oclr_jax.models.parameters import flatten
from oclr_jax.ops.layering import overlap_order


@dataclass(frozen=True)
class OCLRConfig:
    """Dimensions and switches of the model. The defaults are those of the released model.

    Raises ValueError for values that make no model.
    """

    queries: int = 3  # K, number of layers
    frames: int = 30  # T, frames per clip in training and per window in inference
    height: int = 128  # rows of the model grid
    width: int = 224  # columns of the model grid
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)  # U-Net widths, bottleneck last
    encoder_layers: int = 3  # transformer encoder layers
    decoder_layers: int = 3  # transformer decoder layers
    heads: int = 8  # attention heads; also attention maps per query
    feedforward: int = 512  # hidden units of the feed-forward layers
    dropout: float = 0.1  # on residual branches, hidden units and attention weights
    instance_norm: bool = True  # after every 3x3 convolution; False in the paper's ablation
    gaps: tuple[int, ...] = (1, -1)  # flow gaps in frames, two input channels each
    order_from: str = "head"  # depth order in inference: "head" or "overlap" (`overlap_order`)
    # In inference, not published: layers that touch and move alike are one; the number of passes
    # over which each window is averaged, where the user does not say.
    join_parts: bool = False
    passes: int = 1
    compute_dtype: str = "float32"  # "float32" or "bfloat16"; parameters stay float32
    remat: bool = False  # recompute blocks in the backward pass: less memory, more time

    def __post_init__(self):
        counts = (self.queries, self.frames, self.height, self.width, self.encoder_layers)
        counts += (self.decoder_layers, self.heads, self.feedforward, *self.channels)
        if not self.channels or not all(type(n) is int and n > 0 for n in counts):
            raise ValueError("every dimension of the model must be a whole number above 0")
        if not self.gaps or not all(type(gap) is int and gap for gap in self.gaps):
            raise ValueError(f"flow gaps must be whole numbers other than 0: {self.gaps}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1): {self.dropout}")
        if self.order_from not in ("head", "overlap"):
            raise ValueError(f"order_from must be head or overlap: {self.order_from!r}")
        if self.passes not in (1, 2, 4):
            raise ValueError(f"passes must be 1, 2 or 4: {self.passes!r}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype must be float32 or bfloat16: {self.compute_dtype!r}")
        if self.channels[-1] % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.channels[-1]} channels")
        if self.height % self.stride or self.width % self.stride:
            raise ValueError(
                f"height {self.height} and width {self.width} must be multiples of {self.stride}"
            )

    @property
    def stride(self) -> int:
        """Pixels of the model grid per bottleneck token, along each axis."""
        return 2 ** (len(self.channels) - 1)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "OCLRConfig":
        """Inverse of `to_dict`. Raises ValueError for missing, unknown or mistyped fields."""
        types = {field.name: type(field.default) for field in fields(cls)}
        missing, unknown = sorted(types.keys() - values), sorted(values.keys() - types)
        if missing or unknown:
            raise ValueError(f"model config: missing {missing}, unknown {unknown}")
        values = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        for name, value in values.items():
            if type(value) is not types[name]:
                raise ValueError(f"model config: {name} must be {types[name].__name__}: {value!r}")
        return cls(**values)


class OCLROutput(NamedTuple):
    """Predictions for a batch of clips.

    amodal_logits: float32, before the sigmoid. The order of the layers is arbitrary.
    order: float32 pseudo-depth of each layer from the order head, lowest = front.
    """

    amodal_logits: Float[Array, "b t h w k"]
    order: Float[Array, "b k"]


class OCLR(nn.Module):
    """The OCLR flow model. Pure: `model.init(key, flow)`, `model.apply(variables, flow)`.

    Intermediates (`mutable=["intermediates"]`): `bottleneck`, `encoded`, `decoded`,
    `attention_maps`, and `query_maps`, the dot products of queries and tokens, scaled as in
    attention and averaged over heads, `b t h w k` on the token grid.

    Attributes:
      config: dimensions and switches.
      lanes: the U-Net folds frames into channels up to this number: TPU_LANES on a TPU, 1
        elsewhere. The result is the same (`oclr_jax.models.layers.folding`).
    """

    config: OCLRConfig
    lanes: int = 1

    @nn.compact
    def __call__(
        self, flow: Float[Array, "b t h w 2*{len(self.config.gaps)}"], *, train: bool = False
    ) -> OCLROutput:
        """Segments a clip.

        Args:
          flow: (u, v) of every gap, in the order of `config.gaps`, in pixels of the model grid.
            Any t, h and w; h and w must be multiples of `config.stride`.
          train: enables dropout, with the key in `rngs={"dropout": key}`.

        Raises:
          ValueError: for a height or width that is not a multiple of the stride.
        """
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)
        b, t, height, width, _ = flow.shape
        if height % config.stride or width % config.stride:
            raise ValueError(f"{height}x{width} flow is not a multiple of {config.stride}")
        unet = {"instance_norm": config.instance_norm, "dtype": dtype, "remat": config.remat}
        unet["lanes"] = self.lanes
        frames = flow.reshape(b * t, height, width, -1).astype(dtype)
        *skips, bottleneck = UNetEncoder(config.channels, name="unet_encoder", **unet)(frames)
        self.sow("intermediates", "bottleneck", bottleneck)

        encoded = self._encode(bottleneck.reshape(b, t, *bottleneck.shape[1:]), train)
        self.sow("intermediates", "encoded", encoded)
        decoded = self._decode(encoded, train)
        self.sow("intermediates", "decoded", decoded)
        maps = self._attention_maps(decoded, encoded)
        self.sow("intermediates", "attention_maps", maps)

        decoder = UNetDecoder(config.channels, config.queries, name="unet_decoder", **unet)
        logits = decoder(maps.reshape(bottleneck.shape), skips)
        return OCLROutput(logits.reshape(b, t, height, width, -1), self._order(decoded))

    def _encode(self, features: Float[Array, "b t h w c"], train: bool):
        """The transformer encoder: tokens with context from the other frames, `b t h w c`."""
        config, dtype = self.config, features.dtype
        b, t, h, w, c = features.shape
        # Sums of a parameter and its gradients over clips and frames are float32, as those of
        # biases (`oclr_jax.models.layers.linear`).
        position = PositionEmbedding(c, name="position")((t, h, w))
        features = (features.astype(jnp.float32) + position).astype(dtype)
        tokens = features.reshape(b, t * h * w, c)
        layer = nn.remat(EncoderLayer, static_argnums=(2, 3)) if config.remat else EncoderLayer
        sizes = (config.heads, config.feedforward, config.dropout, dtype)
        for i in range(config.encoder_layers):
            tokens = layer(*sizes, name=f"encoder{i + 1}")(tokens, t, train)
        return tokens.reshape(b, t, h, w, c)

    def _decode(self, encoded: Float[Array, "b t h w c"], train: bool):
        """The transformer decoder: one vector per layer and frame, `b k t c`."""
        config, dtype = self.config, encoded.dtype
        b, t, _, _, c = encoded.shape
        embedding = self.param("query", nn.initializers.normal(1.0), (config.queries, c))
        time = PositionEmbedding(c, name="query_time")((t,))
        queries = (embedding[:, None] + time).reshape(-1, c)
        queries = jnp.broadcast_to(queries, (b, *queries.shape)).astype(dtype)
        memory = encoded.reshape(b, -1, c)
        layer = nn.remat(DecoderLayer, static_argnums=(3,)) if config.remat else DecoderLayer
        sizes = (config.heads, config.feedforward, config.dropout, dtype)
        for i in range(config.decoder_layers):
            queries = layer(*sizes, name=f"decoder{i + 1}")(queries, memory, train)
        return queries.reshape(b, config.queries, t, c)

    def _attention_maps(
        self, decoded: Float[Array, "b k t c"], encoded: Float[Array, "b t h w c"]
    ) -> Float[Array, "b t h w c"]:
        """Dot products of queries and the tokens of their frame, per head, then a linear layer."""
        heads = self.config.heads
        decoded = decoded.reshape(*decoded.shape[:3], heads, -1)
        encoded = encoded.reshape(*encoded.shape[:4], heads, -1)
        # In float32, because the loss and the matching of the query term read it.
        maps = jnp.einsum(
            "bktnd,bthwnd->bthwkn", decoded, encoded, preferred_element_type=jnp.float32
        )
        self.sow("intermediates", "query_maps", maps.mean(axis=-1) / np.sqrt(decoded.shape[-1]))
        maps = maps.reshape(*maps.shape[:4], -1).astype(encoded.dtype)
        channels = self.config.channels[-1]
        return nn.relu(Linear(channels, maps.dtype, name="map_linear")(maps))

    def _order(self, decoded: Float[Array, "b k t c"]) -> Float[Array, "b k"]:
        """Pseudo-depth per layer, from its maximum response over time; lowest = front."""
        # By place and not by `max`, whose gradient compares values with their maximum. Where the
        # compiler computes the values twice and rounds them differently, none is equal to it, and
        # the gradient is 0 / 0.
        frame = jnp.arange(decoded.shape[2])[:, None]
        chosen = decoded.argmax(axis=2, keepdims=True) == frame
        strongest = jnp.where(chosen, decoded, 0).sum(axis=2).astype(jnp.float32)
        hidden = nn.Dense(strongest.shape[-1], kernel_init=dense_kernel, name="order1")(strongest)
        return nn.Dense(1, kernel_init=dense_kernel, name="order2")(nn.relu(hidden))[..., 0]


def composing_order(config: OCLRConfig, output: OCLROutput) -> Float[Array, "b k"]:
    """The pseudo-depth that composes layers in inference, as `config.order_from` says."""
    return output.order if config.order_from == "head" else overlap_order(output.amodal_logits)


def parameter_shapes(config: OCLRConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the model, by its path `a/b/c`."""
    flow = jax.ShapeDtypeStruct((1, 1, config.stride, config.stride, 2 * len(config.gaps)), "f4")
    variables = jax.eval_shape(OCLR(config).init, jax.random.key(0), flow)
    return {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}

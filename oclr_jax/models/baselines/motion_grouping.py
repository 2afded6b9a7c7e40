"""Motion Grouping: slots that compete for the pixels of one frame's optical flow.

Yang, Lamdouar, Lu, Zisserman, Xie: "Self-supervised Video Object Segmentation by Motion Grouping"
(ICCV 2021), a baseline of both papers.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.initializers import conv_kernel, dense_kernel
from oclr_jax.models.layers.linear import add_bias
from oclr_jax.models.layers.norms import instance_norm
from oclr_jax.models.parameters import flatten
from oclr_jax.models.refinement_config import check_counts, config_from_dict
from oclr_jax.ops.flow_colors import flow_to_colors, normalize_colors
from oclr_jax.types import PRECISIONS

STRIDE = 8  # pixels per cell of the grid on which the slots are decoded
CHANNELS = {"colors": 3, "uv": 2}  # of the input, by `MotionGroupingConfig.sees`
_EPSILON = 1e-8  # added to the attention of every slot


@dataclass(frozen=True)
class MotionGroupingConfig:
    """Dimensions and switches. The defaults are those of the released models.

    Raises ValueError for values that make no model.
    """

    slots: int = 2  # K, the background's included
    sees: str = "colors"  # flow as "colors", or as "uv" in pixels
    height: int = 128  # rows of the flow
    width: int = 224  # columns of the flow
    channels: tuple[int, ...] = (64, 128, 256)  # of the encoder's levels; the last one of the slots
    decoder_channels: int = 64
    iterations: int = 5  # of slot attention
    gaps: tuple[int, ...] = (1, 2, -1, -2)  # of the flows of a frame, which are seen one by one
    frames: int = 30  # of a window in which objects are scored and tracked; the model has no time
    compute_dtype: str = "float32"  # of convolutions, or "bfloat16"

    def __post_init__(self):
        names = ("slots", "height", "width", "decoder_channels", "iterations", "frames")
        check_counts(self, names)
        if self.slots < 2:
            raise ValueError("slots must be at least 2, one of them for the background")
        if self.sees not in CHANNELS:
            raise ValueError(f"sees must be colors or uv: {self.sees!r}")
        if len(self.channels) != 3 or not all(type(n) is int and n > 0 for n in self.channels):
            raise ValueError(f"channels must be three positive integers: {self.channels}")
        if not self.gaps or 0 in self.gaps or not all(type(gap) is int for gap in self.gaps):
            raise ValueError(f"gaps must be whole numbers other than 0: {self.gaps}")
        if self.compute_dtype not in PRECISIONS:
            raise ValueError(f"compute_dtype must be float32 or bfloat16: {self.compute_dtype!r}")
        if self.height % STRIDE or self.width % STRIDE:
            raise ValueError(
                f"height {self.height} and width {self.width} must be multiples of {STRIDE}"
            )

    @property
    def queries(self) -> int:
        """Layers of a window: the slots without that of the background."""
        return self.slots - 1

    @property
    def order_from(self) -> str:
        """Where the depth order comes from."""
        return "masks that do not overlap"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self) | {"channels": list(self.channels), "gaps": list(self.gaps)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MotionGroupingConfig":
        """Inverse of `to_dict`. Raises ValueError for missing, unknown or mistyped fields."""
        return config_from_dict(cls, values)


class MotionGroupingOutput(NamedTuple):
    """Predictions for n flows; float32.

    masks: soft masks of the slots, which sum to 1.
    layers: the flow that each slot reconstructs, as the model sees flow.
    combined: sum of masks times layers.
    slots: their vectors after slot attention.
    """

    masks: Float[Array, "n h w k"]
    layers: Float[Array, "n h w k c"]
    combined: Float[Array, "n h w c"]
    slots: Float[Array, "n k d"]


def model_input(config: MotionGroupingConfig, flow: Float[Array, "*n h w 2"]) -> Array:
    """Flow in pixels as the model sees it: `*n h w 3` colours in -1..1, or (u, v) unchanged."""
    return normalize_colors(flow_to_colors(flow)) if config.sees == "colors" else flow


class MotionGrouping(nn.Module):
    """`model.apply({"params": params}, inputs)`; frames and flows are independent."""

    config: MotionGroupingConfig

    @nn.compact
    def __call__(self, inputs: Float[Array, "n h w c"]) -> MotionGroupingOutput:
        """Groups the pixels of n flows, each from `model_input`.

        Raises:
          ValueError: for a height or width that is not a multiple of 8.
        """
        config, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        n, height, width, channels = inputs.shape
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"{height}x{width} flow is not a multiple of {STRIDE}")
        x = inputs.astype(dtype)
        for level, features in enumerate(config.channels):
            if level:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for index in (1, 2):
                x = ConvBlock(features, dtype, name=f"encoder{2 * level + index}")(x)
        x = _add_position(x.astype(jnp.float32), "encoder_position")
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(x.reshape(n, -1, x.shape[-1]))
        x = nn.relu(_dense(x.shape[-1], "mlp1")(x))
        x = _dense(x.shape[-1], "mlp2")(x)
        slots = SlotAttention(config.slots, config.iterations, name="slot_attention")(x)
        x = jnp.broadcast_to(
            slots.reshape(-1, 1, 1, slots.shape[-1]),
            (n * config.slots, height // STRIDE, width // STRIDE, slots.shape[-1]),
        )
        x = _add_position(x, "decoder_position").astype(dtype)
        for index in (1, 2, 3):
            x = UpsampleBlock(config.decoder_channels, dtype, name=f"decoder{index}")(x)
        x = ConvBlock(config.decoder_channels, dtype, name="decoder4")(x)
        x = _convolution(channels + 1, dtype, "output")(x).astype(jnp.float32)
        x = jnp.moveaxis(x.reshape(n, config.slots, height, width, channels + 1), 1, 3)
        layers, masks = x[..., :-1], jax.nn.softmax(x[..., -1], axis=-1)
        combined = jnp.einsum("nhwk,nhwkc->nhwc", masks, layers)
        return MotionGroupingOutput(masks, layers, combined, slots)


class SlotAttention(nn.Module):
    """Slots that start from learned vectors and compete for the pixels, in float32.

    Attributes:
      slots: K.
      iterations: all of them are in the gradient.
    """

    slots: int
    iterations: int

    @nn.compact
    def __call__(self, pixels: Float[Array, "b n d"]) -> Float[Array, "b k d"]:
        """The vectors of the slots."""
        batch, _, channels = pixels.shape
        pixels = nn.LayerNorm(epsilon=1e-5, name="norm_input")(pixels)
        key, value = _dense(channels, "key")(pixels), _dense(channels, "value")(pixels)
        start = self.param("slots", nn.initializers.normal(1.0), (self.slots, channels))
        slots = jnp.broadcast_to(start, (batch, *start.shape))
        # One module each, applied again in every iteration.
        norm = nn.LayerNorm(epsilon=1e-5, name="norm_slots")
        query, cell = _dense(channels, "query"), GRUCell(channels, name="gru")
        norm_mlp = nn.LayerNorm(epsilon=1e-5, name="norm_mlp")
        mlp1, mlp2 = _dense(channels, "mlp1"), _dense(channels, "mlp2")
        for _ in range(self.iterations):
            logits = jnp.einsum("bkd,bnd->bnk", query(norm(slots)), key) / np.sqrt(channels)
            attention = jax.nn.softmax(logits, axis=-1) + _EPSILON
            attention = attention / attention.sum(axis=1, keepdims=True)
            slots = cell(slots, jnp.einsum("bnk,bnd->bkd", attention, value))
            slots = slots + mlp2(nn.relu(mlp1(norm_mlp(slots))))
        return slots


class GRUCell(nn.Module):
    """A gated recurrent unit whose candidate has the hidden bias inside the reset gate."""

    features: int

    @nn.compact
    def __call__(
        self, state: Float[Array, "*b d"], inputs: Float[Array, "*b d"]
    ) -> Float[Array, "*b d"]:
        """The next state. The packed gates are reset, update and candidate."""
        reset, update, candidate = jnp.split(_dense(3 * self.features, "input")(inputs), 3, -1)
        hidden = jnp.split(_dense(3 * self.features, "hidden")(state), 3, -1)
        reset = jax.nn.sigmoid(reset + hidden[0])
        update = jax.nn.sigmoid(update + hidden[1])
        candidate = jnp.tanh(candidate + reset * hidden[2])
        return (1 - update) * candidate + update * state


class ConvBlock(nn.Module):
    """A 5x5 convolution, instance norm with affine parameters, ReLU."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w d"]:
        x = _convolution(self.features, self.dtype, "conv")(x)
        return nn.relu(AffineInstanceNorm(name="norm")(x))


class UpsampleBlock(nn.Module):
    """A transposed 5x5 convolution with stride 2, instance norm with affine parameters, ReLU."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w d"]:
        shape = (5, 5, x.shape[-1], self.features)
        kernel = self.param("kernel", conv_kernel, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = add_bias(upsample_transposed(x, kernel.astype(self.dtype)), bias)
        return nn.relu(AffineInstanceNorm(name="norm")(x))


class AffineInstanceNorm(nn.Module):
    """Instance norm with a scale and a bias per channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        # In float32, so that the gradients of scale and bias are summed in float32.
        normed = instance_norm(x).astype(jnp.float32)
        return (normed * scale + bias).astype(x.dtype)


def upsample_transposed(
    x: Float[Array, "n h w c"], kernel: Float[Array, "5 5 c d"]
) -> Float[Array, "n 2*h 2*w d"]:
    """A transposed convolution with stride 2 that doubles height and width exactly.

    Output pixel o takes input pixel i times kernel element o + 2 - 2i along each axis. Written as
    an ordinary 3x3 convolution to the four output pixels of each input pixel: several times faster
    on a CPU than a convolution with gaps in its input.
    """
    n, height, width, _ = x.shape
    *_, channels, features = kernel.shape
    # Element 2a + p, with p the parity of the output pixel, belongs to the input 1 - a away.
    taps = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    taps = taps.reshape(3, 2, 3, 2, channels, features)[::-1, :, ::-1]
    taps = taps.transpose(0, 2, 4, 1, 3, 5).reshape(3, 3, channels, 4 * features)
    x = jax.lax.conv_general_dilated(
        x, taps, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = x.reshape(n, height, width, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, 2 * height, 2 * width, features)


def init_params(config: MotionGroupingConfig, seed: int) -> dict[str, Any]:
    """Random parameters, the same for the same seed; they do not depend on the flow's size."""
    inputs = jnp.zeros((1, STRIDE, STRIDE, CHANNELS[config.sees]))
    return MotionGrouping(config).init(jax.random.key(seed), inputs)["params"]


def parameter_shapes(config: MotionGroupingConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the model, by its path `a/b/c`."""
    params = jax.eval_shape(lambda: init_params(config, 0))
    return {path: leaf.shape for path, leaf in flatten(params).items()}


def _convolution(features: int, dtype: jnp.dtype, name: str) -> nn.Conv:
    return nn.Conv(features, (5, 5), dtype=dtype, kernel_init=conv_kernel, name=name)


def _dense(features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=dense_kernel, name=name)


def _add_position(x: Float[Array, "n h w c"], name: str) -> Float[Array, "n h w c"]:
    """Adds a linear function of (y, x, 1 - y, 1 - x), each 0 to 1 over the frame."""
    axes = [np.linspace(0, 1, size, dtype=np.float32) for size in x.shape[1:3]]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    place = jnp.asarray(np.concatenate([place, 1 - place], axis=-1))
    return x + _dense(x.shape[-1], name)(place)

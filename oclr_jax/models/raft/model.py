"""RAFT: two frames in, the optical flow between them out.

Teed and Deng: "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020).
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.parameters import flatten
from oclr_jax.models.raft.encoder import Encoder
from oclr_jax.models.raft.update import (
    MaskHead,
    UpdateBlock,
    upsample_bilinear,
    upsample_convex,
)
from oclr_jax.ops.correlation import (
    correlation_pyramid,
    feature_pyramid,
    lookup,
    lookup_on_demand,
)

STRIDE = 8  # pixels of a frame per pixel of its features, along each axis
LEVELS = 4  # of the correlation pyramid
MIN_SIDE = STRIDE * 2 ** (LEVELS - 1)  # of a frame, so that its coarsest level is not empty


@dataclass(frozen=True)
class RAFTConfig:
    """Which of the paper's two models, and how it computes."""

    small: bool = False  # RAFT-small, 1.0 M parameters, instead of RAFT, 5.3 M
    compute_dtype: str = "float32"  # or "bfloat16"; parameters, flow and correlation stay float32

    def __post_init__(self):
        if type(self.small) is not bool:
            raise ValueError(f"small must be true or false: {self.small!r}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype must be float32 or bfloat16: {self.compute_dtype!r}")

    @property
    def radius(self) -> int:
        """Of the correlation windows."""
        return 3 if self.small else 4

    @property
    def hidden(self) -> int:
        """Channels of the recurrent state."""
        return 96 if self.small else 128

    @property
    def context(self) -> int:
        """Channels of the context, which enters every step."""
        return 64 if self.small else 128

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RAFTConfig":
        """Inverse of `to_dict`; raises ValueError on missing, unknown or mistyped fields."""
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            raise ValueError(f"model config: it must have exactly the fields {sorted(names)}")
        return cls(**values)


class Context(NamedTuple):
    """Features of the first frame only."""

    hidden: Float[Array, "n h w d"]  # initial state of the GRU
    context: Float[Array, "n h w c"]  # input of every iteration


class Refined(NamedTuple):
    """Flow from the first frame to the second, (u, v) = (right, down), float32.

    coarse: at an eighth of the frame size, in pixels of that grid.
    flow: at the frame size, in pixels; with a leading axis over the iterations if all were
      requested.
    """

    coarse: Float[Array, "n h8 w8 2"]
    flow: Float[Array, "*steps n h w 2"]


class RAFT(nn.Module):
    """RAFT and RAFT-small: `model.apply(variables, first, second)`.

    `features`, `context` and `refine` can be applied separately, so that the features of a frame in
    several pairs are computed once. Variables: "params" and, for RAFT, "batch_stats".
    """

    config: RAFTConfig

    def setup(self):
        config = self.config
        dtype = jnp.dtype(config.compute_dtype)
        widths = (32, 64, 96) if config.small else (64, 96, 128)
        self.feature_encoder = Encoder(
            widths, 128 if config.small else 256, config.small, "instance", dtype
        )
        self.context_encoder = Encoder(
            widths,
            config.hidden + config.context,
            config.small,
            "none" if config.small else "batch",
            dtype,
        )
        self.update = UpdateBlock(config.small, config.hidden, config.context, dtype)
        if not config.small:
            self.mask = MaskHead(dtype)

    def __call__(
        self,
        first: Float[Array, "n h w 3"],
        second: Float[Array, "n h w 3"],
        iterations: int = 12,
        on_demand: bool = False,
    ) -> Refined:
        """Flow after every iteration, as needed in training.

        Args:
          first, second: RGB in 0..1; height and width multiples of 8 and at least 64.
          iterations: of the refinement.
          on_demand: compute correlations when they are looked up, instead of storing those of all
            pairs of pixels: much less memory for large frames, more time, equal results.
        """
        both = self.features(jnp.concatenate([first, second]))
        one, other = jnp.split(both, 2)
        return self.refine(one, other, self.context(first), iterations, on_demand, every=True)

    def features(self, frames: Float[Array, "n h w 3"]) -> Float[Array, "n h8 w8 c"]:
        """Features for the correlation; `frames` are RGB in 0..1."""
        _check_size(frames)
        return self.feature_encoder(2 * frames - 1)

    def context(self, frames: Float[Array, "n h w 3"]) -> Context:
        """Context of the first frames of pairs; `frames` are RGB in 0..1."""
        _check_size(frames)
        both = self.context_encoder(2 * frames - 1)
        hidden, context = jnp.split(both, [self.config.hidden], axis=-1)
        return Context(nn.tanh(hidden), nn.relu(context))

    def refine(
        self,
        first: Float[Array, "n h w c"],
        second: Float[Array, "n h w c"],
        context: Context,
        iterations: int,
        on_demand: bool = False,
        every: bool = False,
    ) -> Refined:
        """Flow from the features of two frames, after the last iteration or, with `every`, all.

        Gradients do not flow from one iteration to the one before through the flow, as in the
        paper.
        """
        n, h, w, _ = first.shape
        radius = self.config.radius
        if on_demand:
            pyramid = feature_pyramid(second.astype(jnp.float32), LEVELS)
        else:
            pyramid = correlation_pyramid(first, second, LEVELS, radius)
        start = jnp.stack(jnp.meshgrid(jnp.arange(w), jnp.arange(h)), axis=-1).astype(jnp.float32)
        prepared = self.update.prepare(context.context)

        def step(model, carry, _):
            hidden, flow = carry
            flow = jax.lax.stop_gradient(flow)
            if on_demand:
                windows = lookup_on_demand(first, pyramid, start + flow, radius)
            else:
                windows = lookup(pyramid, start + flow, radius)
            hidden, change = model.update(hidden, prepared, windows, flow)
            flow = flow + change
            return (hidden, flow), model.upsample(flow, hidden) if every else None

        carry = (context.hidden, jnp.zeros((n, h, w, 2), jnp.float32))
        if self.is_initializing():
            (hidden, flow), _ = step(self, carry, None)
            return Refined(flow, self.upsample(flow, hidden)[None])
        # On a CPU, the backward pass of convolutions is ten times slower inside a loop.
        unrolled = every and jax.default_backend() == "cpu"
        steps = nn.scan(
            step,
            variable_broadcast=("params", "batch_stats"),
            split_rngs={"params": False},
            length=iterations,
            unroll=iterations if unrolled else 1,
        )
        (hidden, flow), flows = steps(self, carry, None)
        return Refined(flow, flows if every else self.upsample(flow, hidden))

    def upsample(
        self, flow: Float[Array, "n h w 2"], hidden: Float[Array, "n h w d"]
    ) -> Float[Array, "n H W 2"]:
        """Upsamples flow to the frame size."""
        if self.config.small:
            return upsample_bilinear(flow)
        return upsample_convex(flow, self.mask(hidden))


def _check_size(frames: Float[Array, "n h w 3"]) -> None:
    height, width = frames.shape[1:3]
    if height % STRIDE or width % STRIDE or min(height, width) < MIN_SIDE:
        raise ValueError(
            f"frames must be multiples of {STRIDE} and at least {MIN_SIDE} pixels each side, not "
            f"{height}x{width}"
        )


def parameter_shapes(config: RAFTConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every variable of the model, by its path `params/a/b` or `batch_stats/a/b`."""
    frame = jax.ShapeDtypeStruct((1, MIN_SIDE, MIN_SIDE, 3), "f4")
    variables = jax.eval_shape(RAFT(config).init, jax.random.key(0), frame, frame)
    return {path: leaf.shape for path, leaf in flatten(variables).items()}

"""RAFT's update operator: one iteration of the refinement of the flow (RAFT, section 3.3)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.layers.initializers import conv_kernel
from oclr_jax.models.raft import encoder

GATES = ("update", "reset", "candidate")
# Initialization of the published update operator; with larger kernels the first flows explode.
convolution = partial(encoder.convolution, kernel_init=conv_kernel)
pixel_linear = partial(encoder.pixel_linear, kernel_init=conv_kernel)


class MotionEncoder(nn.Module):
    """Motion features of correlation windows and flow; their last two channels are the flow."""

    small: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, windows: Float[Array, "n h w s"], flow: Float[Array, "n h w 2"]
    ) -> Float[Array, "n h w c"]:
        dtype = self.dtype
        windows, flow = windows.astype(dtype), flow.astype(dtype)
        seen = nn.relu(pixel_linear(96 if self.small else 256, dtype, name="windows1")(windows))
        if not self.small:
            seen = nn.relu(convolution(192, (3, 3), dtype, name="windows2")(seen))
        moved = nn.relu(convolution(64 if self.small else 128, (7, 7), dtype, name="flow1")(flow))
        moved = nn.relu(convolution(32 if self.small else 64, (3, 3), dtype, name="flow2")(moved))
        both = jnp.concatenate([seen, moved], axis=-1)
        both = nn.relu(convolution(80 if self.small else 126, (3, 3), dtype, name="both")(both))
        return jnp.concatenate([both, flow], axis=-1)


class GRU(nn.Module):
    """A convolutional gated recurrent unit (RAFT, equations 3 to 6).

    The input is the context, the same in every iteration, and motion features. Convolution is
    linear, so `prepare` computes the share of the context once for all iterations.

    Attributes:
      size: of the convolutions, (rows, columns).
      hidden, context, motion: channels.
    """

    size: tuple[int, int]
    hidden: int
    context: int
    motion: int
    dtype: jnp.dtype

    def setup(self):
        channels = self.hidden + self.context + self.motion
        shape = (*self.size, channels, self.hidden)
        self.kernels = [self.param(f"{gate}_kernel", conv_kernel, shape) for gate in GATES]
        zeros = nn.initializers.zeros
        self.biases = [self.param(f"{gate}_bias", zeros, (self.hidden,)) for gate in GATES]

    def prepare(self, context: Float[Array, "n h w c"]) -> Float[Array, "n h w g"]:
        """The share of the context in all three gates, including the biases."""
        start, stop = self.hidden, self.hidden + self.context
        kernel = jnp.concatenate([kernel[:, :, start:stop] for kernel in self.kernels], axis=-1)
        return self._convolve(context, kernel) + jnp.concatenate(self.biases).astype(self.dtype)

    def __call__(
        self,
        hidden: Float[Array, "n h w d"],
        prepared: Float[Array, "n h w g"],
        motion: Float[Array, "n h w m"],
    ) -> Float[Array, "n h w d"]:
        """The next hidden state."""
        rest = [
            jnp.concatenate(
                [kernel[:, :, : self.hidden], kernel[:, :, self.hidden + self.context :]], axis=2
            )
            for kernel in self.kernels
        ]
        state = jnp.concatenate([hidden, motion], axis=-1)
        gates = self._convolve(state, jnp.concatenate(rest[:2], axis=-1))
        gates = nn.sigmoid(gates + prepared[..., : 2 * self.hidden])
        update, reset = gates[..., : self.hidden], gates[..., self.hidden :]
        state = jnp.concatenate([reset * hidden, motion], axis=-1)
        candidate = nn.tanh(self._convolve(state, rest[2]) + prepared[..., 2 * self.hidden :])
        return (1 - update) * hidden + update * candidate

    def _convolve(self, x, kernel):
        padding = [(side // 2, side // 2) for side in self.size]
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (1, 1),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class UpdateBlock(nn.Module):
    """Motion encoder, GRU and flow head. The full model has a GRU along rows, then columns."""

    small: bool
    hidden: int
    context: int
    dtype: jnp.dtype

    def setup(self):
        self.motion = MotionEncoder(self.small, self.dtype)
        sizes = [(3, 3)] if self.small else [(1, 5), (5, 1)]
        channels = (self.hidden, self.context, 82 if self.small else 128)
        self.grus = [GRU(size, *channels, self.dtype) for size in sizes]
        self.flow1 = convolution(128 if self.small else 256, (3, 3), self.dtype)
        self.flow2 = convolution(2, (3, 3), self.dtype)

    def prepare(self, context: Float[Array, "n h w c"]) -> list[Float[Array, "n h w g"]]:
        """The share of the context in each GRU; see `GRU.prepare`."""
        return [gru.prepare(context) for gru in self.grus]

    def __call__(
        self,
        hidden: Float[Array, "n h w d"],
        prepared: list[Float[Array, "n h w g"]],
        windows: Float[Array, "n h w s"],
        flow: Float[Array, "n h w 2"],
    ) -> tuple[Float[Array, "n h w d"], Float[Array, "n h w 2"]]:
        """The next hidden state, and the change of the flow (float32)."""
        motion = self.motion(windows, flow)
        for gru, share in zip(self.grus, prepared, strict=True):
            hidden = gru(hidden, share, motion)
        change = self.flow2(nn.relu(self.flow1(hidden)))
        return hidden, change.astype(jnp.float32)


class MaskHead(nn.Module):
    """Logits of the weights with which a fine vector combines its 3x3 coarse neighbours."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: Float[Array, "n h w d"]) -> Float[Array, "n h w 9 8 8"]:
        x = nn.relu(convolution(256, (3, 3), self.dtype, name="mask1")(hidden))
        # The published program scales the mask by 0.25 to balance gradients.
        x = 0.25 * pixel_linear(9 * 64, self.dtype, name="mask2")(x)
        return x.astype(jnp.float32).reshape(*x.shape[:3], 9, 8, 8)


def upsample_convex(
    flow: Float[Array, "n h w 2"], mask: Float[Array, "n h w 9 8 8"]
) -> Float[Array, "n H W 2"]:
    """Upsamples flow 8 times: convex combinations of 3x3 coarse vectors (RAFT, section 3.3).

    The neighbours are in row-major order, and 0 outside the map. Values become pixels of the fine
    grid.
    """
    n, h, w, _ = flow.shape
    padded = jnp.pad(8 * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = [padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)]
    weights = nn.softmax(mask, axis=3)
    fine = jnp.einsum("nhwkij,nhwkc->nhiwjc", weights, jnp.stack(near, axis=3))
    return fine.reshape(n, 8 * h, 8 * w, 2)


def upsample_bilinear(flow: Float[Array, "n h w 2"]) -> Float[Array, "n H W 2"]:
    """Upsamples flow 8 times, with aligned corners; values become pixels of the fine grid."""
    rows, columns = (jnp.asarray(_stretch(side)) for side in flow.shape[1:3])
    return 8 * jnp.einsum("yh,nhwc,xw->nyxc", rows, flow, columns)


def _stretch(side: int) -> np.ndarray:
    """Matrix [8 side, side] of linear interpolation with aligned corners."""
    at = np.linspace(0, side - 1, 8 * side)
    distance = np.abs(at[:, None] - np.arange(side))
    return np.maximum(0, 1 - distance).astype(np.float32)

"""Frames folded into channels, so that narrow levels of a U-Net fill the lanes of a TPU.

A TPU stores the channels of an array in tiles of 128, so 32 channels take the memory, and the
memory traffic, of 128. Folding puts the channels of several frames side by side. A convolution of
folded frames has a block-diagonal kernel: same result, same parameters, and as many passes of the
matrix unit as before, because zeros take the place of padding. Norms per frame and channel,
activations and pooling need no change. On CPUs and GPUs the zeros would cost time.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Channels side by side in a tile of a TPU.
TPU_LANES = 128


def lanes_here() -> int:
    """Channels up to which frames are folded on this machine: TPU_LANES on a TPU, else 1."""
    return TPU_LANES if jax.default_backend() == "tpu" else 1


def frames_together(lanes: int, channels: int) -> int:
    """The number of frames of `channels` channels that fill `lanes`; at least 1."""
    return max(1, lanes // channels)


def fold(x: Float[Array, "n h w c"], frames: int) -> Float[Array, "m h w fc"]:
    """Puts the channels of `frames` consecutive frames side by side.

    Frames of zeros fill the last group, so m = ceil(n / frames) and fc = frames * c.
    """
    if frames == 1:
        return x
    n, h, w, c = x.shape
    groups = -(-n // frames)
    x = jnp.pad(x, ((0, groups * frames - n), (0, 0), (0, 0), (0, 0)))
    x = x.reshape(groups, frames, h, w, c)
    return jnp.moveaxis(x, 1, 3).reshape(groups, h, w, frames * c)


def unfold(x: Float[Array, "m h w fc"], frames: int, n: Any) -> Float[Array, "_n h w c"]:
    """Inverse of `fold`: the first `n` frames, a symbolic number in an exported program."""
    if frames == 1:
        return x
    groups, h, w, _ = x.shape
    x = jnp.moveaxis(x.reshape(groups, h, w, frames, -1), 3, 1)
    return x.reshape(groups * frames, h, w, -1)[:n]


def block_diagonal(kernel: Float[Array, "*s i o"], frames: int) -> Float[Array, "*s fi fo"]:
    """The kernel that does to each of `frames` folded frames what `kernel` does to one."""
    if frames == 1:
        return kernel
    *rest, i, o = kernel.shape
    blocks = jnp.einsum("...io,fg->...figo", kernel, jnp.eye(frames, dtype=kernel.dtype))
    return blocks.reshape(*rest, frames * i, frames * o)

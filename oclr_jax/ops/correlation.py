"""All-pairs correlation of two feature maps, and lookup of windows in it (RAFT, section 3.2).

Two implementations with equal results: `correlation_pyramid` stores all pairs for `lookup`;
`lookup_on_demand` computes only the pairs that a window needs, and never holds an array of all
pairs. Pooling and interpolation are linear, so their order does not matter.

A window lies around a position (x, y) in pixels of the finest level. At each level it has
(2 radius + 1)^2 bilinear samples, 0 outside the map, in the order (level, x offset, y offset).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def pool2(x: Float[Array, "*n h w c"]) -> Float[Array, "*n h2 w2 c"]:
    """Means of 2x2 blocks. An odd last row or column is dropped."""
    *n, h, w, c = x.shape
    x = x[..., : h // 2 * 2, : w // 2 * 2, :]
    return x.reshape(*n, h // 2, 2, w // 2, 2, c).mean(axis=(-4, -2))


def feature_pyramid(
    features: Float[Array, "n h w c"], levels: int
) -> list[Float[Array, "n _h _w c"]]:
    """The features, and their means over blocks of 2, 4, ... pixels."""
    pyramid = [features]
    for _ in range(levels - 1):
        pyramid.append(pool2(pyramid[-1]))
    return pyramid


def correlation_pyramid(
    first: Float[Array, "n h w c"], second: Float[Array, "n h w c"], levels: int, radius: int
) -> list[Float[Array, "n h w _p _q"]]:
    """Float32 dot products of all pairs of pixels of `first` and `second`, divided by sqrt(c).

    At level l, `second` is averaged over blocks of 2^l pixels, with its size rounded down. Each
    level is padded with zeros, wide enough for the windows of `lookup` at this radius.
    """
    scaled = first.astype(jnp.float32) / np.sqrt(first.shape[-1])
    margin = _margin(radius)
    around = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return [
        jnp.einsum("nhwc,npqc->nhwpq", scaled, jnp.pad(level, around))
        for level in feature_pyramid(second.astype(jnp.float32), levels)
    ]


def lookup(
    pyramid: list[Float[Array, "n h w _p _q"]], position: Float[Array, "n h w 2"], radius: int
) -> Float[Array, "n h w samples"]:
    """Float32 windows of a `correlation_pyramid` around `position`; see the module docstring."""
    margin, windows = _margin(radius), []

    def window(pairs, x, y):
        return jax.lax.dynamic_slice(pairs, (y, x), (margin, margin)).T

    for level, pairs in enumerate(pyramid):
        *pixels, height, width = pairs.shape
        centre = position / 2**level
        # A window that lies entirely outside is moved into the margin, which is all zeros too.
        start = jnp.floor(centre).astype(jnp.int32) - radius + margin
        start = jnp.clip(start, 0, jnp.asarray([width - margin, height - margin]))
        flat = pairs.reshape(-1, height, width), *start.reshape(-1, 2).T
        corners = jax.vmap(window)(*flat)
        windows.append(_interpolate(corners.reshape(*pixels, margin, margin), centre))
    return jnp.concatenate(windows, axis=-1)


def _margin(radius: int) -> int:
    """Pixels of a window along one axis: all samples have the same fractional offset, so one more
    pixel than there are samples suffices.
    """
    return 2 * radius + 2


def lookup_on_demand(
    first: Float[Array, "n h w c"],
    pyramid: list[Float[Array, "n _p _q c"]],
    position: Float[Array, "n h w 2"],
    radius: int,
) -> Float[Array, "n h w samples"]:
    """Same as `lookup`, from the features of `first` and the feature pyramid of `second`.

    Processes one row of pixels at a time. Memory: n w (2 radius + 2)^2 c numbers.
    """
    scaled = first.astype(jnp.float32) / np.sqrt(first.shape[-1])
    levels = [level.astype(jnp.float32) for level in pyramid]

    def row(inputs):
        features, centre = inputs  # [n w c], [n w 2]
        windows = []
        for level, second in enumerate(levels):
            n, height, width, c = second.shape
            index, inside = _corners(centre / 2**level, radius, height, width)
            near = jax.vmap(lambda pixels, at: pixels.at[at].get(mode="promise_in_bounds"))(
                second.reshape(n, height * width, c), index
            )
            corners = jnp.einsum("nwxyc,nwc->nwxy", near, features) * inside
            windows.append(_interpolate(corners, centre / 2**level))
        return jnp.concatenate(windows, axis=-1)

    rows = jax.lax.map(row, (jnp.moveaxis(scaled, 1, 0), jnp.moveaxis(position, 1, 0)))
    return jnp.moveaxis(rows, 0, 1)


def _corners(
    centre: Float[Array, "*n 2"], radius: int, height: int, width: int
) -> tuple[Int[Array, "*n k k"], Float[Array, "*n k k"]]:
    """Flat indices of the pixels around the samples, and 1 where they lie inside the map.

    k is `_margin(radius)`.
    """
    start = jnp.floor(centre).astype(jnp.int32) - radius
    x = start[..., :1] + jnp.arange(_margin(radius))
    y = start[..., 1:] + jnp.arange(_margin(radius))
    inside = ((x >= 0) & (x < width))[..., :, None] & ((y >= 0) & (y < height))[..., None, :]
    index = jnp.clip(y, 0, height - 1)[..., None, :] * width + jnp.clip(x, 0, width - 1)[..., None]
    return index, inside.astype(jnp.float32)


def _interpolate(
    corners: Float[Array, "*n k k"], centre: Float[Array, "*n 2"]
) -> Float[Array, "*n samples"]:
    """Bilinear samples between the corners (x, y), flattened."""
    fraction = centre - jnp.floor(centre)
    fx, fy = fraction[..., 0, None, None], fraction[..., 1, None, None]
    along_x = corners[..., :-1, :] * (1 - fx) + corners[..., 1:, :] * fx
    samples = along_x[..., :-1] * (1 - fy) + along_x[..., 1:] * fy
    return samples.reshape(*samples.shape[:-2], -1)

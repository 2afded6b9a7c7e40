"""Optical flow as colours, the input of Motion Grouping. Inside jit; for people: `show`."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from oclr_jax.ops.color_wheel import color_wheel

_UNKNOWN = 1e6  # components above this mark unknown flow, in pixels


def flow_to_colors(flow: Float[Array, "*b h w 2"]) -> Float[Array, "*b h w 3"]:
    """Paints flow (u, v) on the 55-bin Middlebury wheel: RGB in 0..1, white for no motion.

    The longest vector of a frame has full colour, so the colours do not depend on speed. Unknown
    vectors (not finite, or above a million) are black. As in cvbase, which the published program
    of Motion Grouping (Yang et al., ICCV 2021) uses.
    """
    known = jnp.all(jnp.abs(flow) <= _UNKNOWN, axis=-1, keepdims=True)  # false for NaN
    flow = jnp.where(known, flow, 0.0)
    square = jnp.square(flow).sum(axis=-1)
    longest = jnp.sqrt(square.max(axis=(-2, -1), keepdims=True))
    radius = jnp.sqrt(square) / jnp.where(longest > 0, longest, 1.0)
    wheel = jnp.asarray(color_wheel())
    angle = jnp.arctan2(-flow[..., 1], -flow[..., 0]) / jnp.pi
    place = (angle + 1) / 2 * (len(wheel) - 1)
    low = jnp.floor(place).astype(jnp.int32)
    high = jnp.where(low + 1 == len(wheel), 0, low + 1)
    share = (place - low)[..., None]
    color = (1 - share) * wheel[low] + share * wheel[high]
    return jnp.where(known, 1 - radius[..., None] * (1 - color), 0.0)


def normalize_colors(colors: Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """Colours in 0..1 to the range -1..1 of the model's input."""
    return jnp.clip(2 * (colors - 0.5), -1, 1)

"""Losses of Motion Grouping (Yang et al., ICCV 2021), as in its published program."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from oclr_jax.ops.matching import match_layers, take_layers

_EPSILON = 1e-5  # inside the logarithm of the entropy


@dataclass(frozen=True)
class MotionGroupingWeights:
    """Weights of the terms; the defaults are those of the published program."""

    reconstruction: float = 100.0
    entropy: float = 0.01
    consistency: float = 0.01
    masks: float = 0.0  # cross-entropy with true masks: the supervised variant; 0 without truth
    growth: float = 5.0  # entropy and consistency are multiplied by this ...
    grow_every: int = 80_000  # ... after so many steps, again and again


def reconstruction_loss(
    flow: Float[Array, "n h w c"], reconstruction: Float[Array, "n h w c"]
) -> Float[Array, ""]:
    """Mean squared error of the flow, in the representation that the model sees."""
    return jnp.square(flow - reconstruction).mean()


def entropy_loss(masks: Float[Array, "n h w k"]) -> Float[Array, ""]:
    """Mean entropy of the slots' masks over frames and pixels: low where masks are binary."""
    return -(masks * jnp.log(masks + _EPSILON)).sum(axis=-1).mean()


def consistency_loss(masks: Float[Array, "n 2 h w k"]) -> Float[Array, ""]:
    """Difference of the masks that two flows of the same frame give.

    The smallest mean squared difference of any slot of the first flow with any slot of the second,
    averaged over the samples. The published loss is for two slots; for more, the same rule is used
    here, because none is published.
    """
    return consistency_pairs(masks).min(axis=(1, 2)).mean()


def consistency_pairs(masks: Float[Array, "n 2 h w k"]) -> Float[Array, "n k k"]:
    """Mean squared difference of slot i of a frame's first flow and slot j of its second one."""
    first, second = masks[:, 0, ..., :, None], masks[:, 1, ..., None, :]
    return jnp.square(first - second).mean(axis=(1, 2))


def mask_loss(masks: Float[Array, "n h w k"], truth: Float[Array, "n h w k"]) -> Float[Array, ""]:
    """Cross-entropy of slots that are matched to true masks, for the supervised variant.

    The true masks of a frame, the background's included, are assigned to its slots at the least
    total cross-entropy (Hungarian). The loss of the papers' variant is not published.
    """
    log = jnp.log(masks + _EPSILON)
    cost = -jnp.einsum("nhwp,nhwq->npq", log, truth) / (masks.shape[1] * masks.shape[2])
    matched = take_layers(log, match_layers(cost))
    return -(matched * truth).sum(axis=-1).mean()


def true_masks(
    modal: UInt8[Array, "n h w objects"] | Bool[Array, "n h w objects"], slots: int
) -> Float[Array, "n h w {slots}"]:
    """True masks for the slots, 0 or 1: objects, then empty masks, then the background.

    With fewer slots than objects and background, the last foreground mask has all further objects.
    """
    masks = modal.astype(jnp.float32)
    foreground = slots - 1
    if masks.shape[-1] > foreground:
        rest = masks[..., foreground - 1 :].max(axis=-1, keepdims=True)
        masks = jnp.concatenate([masks[..., : foreground - 1], rest], axis=-1)
    masks = jnp.pad(masks, [(0, 0)] * 3 + [(0, foreground - masks.shape[-1])])
    background = 1 - masks.max(axis=-1, keepdims=True)
    return jnp.concatenate([masks, background], axis=-1)

"""Training losses of the mask selector and the mask corrector (second paper, equations 4 to 8)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from oclr_jax.ops import losses


@dataclass(frozen=True)
class CorrectorLossWeights:
    """Weights of the corrector's loss relative to the cross-entropy of the masks.

    boundary: that of the first paper. The others are not published; they are chosen so that each
    term is below the cross-entropy of the masks in the first steps. `maps` is not in the paper: it
    teaches a backbone that is trained from scratch to find the objects by their appearance.
    """

    boundary: float = 0.2  # lambda_bound
    reconstruction: float = 0.05  # lambda_recon lambda_feat-recon
    alpha: float = 0.2  # lambda_alpha lambda_feat-recon
    maps: float = 0.0  # cross-entropy of the objects' attention maps


def true_error_map(
    masks: Bool[Array, "*b h w k"], truth: Bool[Array, "*b h w k"]
) -> Bool[Array, "*b h w k 3"]:
    """False positives, correct pixels and false negatives of masks."""
    return jnp.stack([masks & ~truth, masks == truth, truth & ~masks], axis=-1)


def error_map_loss(
    error_logits: Float[Array, "b t h w k 3"],
    truth: Bool[Array, "b t h w k 3"],
    present: Bool[Array, "b k"],
    normalizer: Float[Array, ""],
) -> Float[Array, ""]:
    """Binary cross-entropy of each channel of the error maps (equation 4).

    A mean over frames, pixels and channels, and over the objects that are present.

    Args:
      error_logits: before the softmax over channels.
      truth: see `true_error_map`.
      present: objects that count.
      normalizer: number of objects that are present in the whole batch; see `Task.loss_normalizer`.
    """
    inside = jax.nn.log_softmax(error_logits.astype(jnp.float32))
    # 1 - p is the sum of the other two channels.
    outside = jnp.logaddexp(jnp.roll(inside, 1, axis=-1), jnp.roll(inside, 2, axis=-1))
    entropy = -jnp.where(truth, inside, outside).mean(axis=(1, 2, 3, 5))
    return jnp.sum(entropy * present) / jnp.where(normalizer > 0, normalizer, 1)


def score_loss(
    scores: Float[Array, "b t k"],
    iou: Float[Array, "b t k"],
    present: Bool[Array, "b k"],
    normalizer: Float[Array, ""],
) -> Float[Array, ""]:
    """Cross-entropy of predicted scores, before the sigmoid, with the masks' IoU (table 3)."""
    entropy = losses.cross_entropy(scores, iou).mean(axis=1)
    return jnp.sum(entropy * present) / jnp.where(normalizer > 0, normalizer, 1)


def corrector_loss(
    mask_logits: Float[Array, "b t h w k"],
    truth: UInt8[Array, "b t h w k"],
    reconstruction: Float[Array, "b t y x c"] | None,
    features: Float[Array, "b t y x c"],
    alphas: Float[Array, "b t y x q"] | None,
    weights: CorrectorLossWeights,
    band_pixels: Float[Array, ""] | None = None,
    known: Bool[Array, "b t k"] | None = None,
    map_logits: Float[Array, "b t y x k"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Mask prediction and feature reconstruction (equations 6 to 8).

    Args:
      mask_logits, reconstruction, alphas, map_logits: output of the corrector.
      truth: visible parts of the objects.
      features: of the backbone, which get no gradient.
      weights: of the terms.
      band_pixels: as in `losses.boundary_loss`, for a part of a batch.
      known: the frames of each object that have a truth, None for all; the cross-entropies are
        means over them. The boundary term does not know it and must have no weight then.

    Returns:
      total loss, and the unweighted terms by name.
    """

    def mean(values: Float[Array, "b t y x k"]) -> Float[Array, ""]:
        if known is None:
            return values.mean()
        return (values.mean(axis=(2, 3)) * known).sum() / jnp.maximum(known.sum(), 1)

    terms = {
        "bce": mean(losses.cross_entropy(mask_logits, truth)),
        "boundary": losses.boundary_loss(mask_logits, truth, band_pixels),
    }
    total = terms["bce"] + weights.boundary * terms["boundary"]
    if weights.maps and map_logits is not None:
        shares = losses.token_shares(truth, *map_logits.shape[2:4])
        terms["maps"] = mean(losses.cross_entropy(map_logits, shares))
        total += weights.maps * terms["maps"]
    if reconstruction is None:
        return total, terms
    objects = truth.shape[-1]
    shares = losses.token_shares(truth, *alphas.shape[2:4])
    tiny = jnp.finfo(jnp.float32).eps
    alphas = jnp.clip(alphas[..., :objects], tiny, 1 - tiny)
    entropy = shares * jnp.log(alphas) + (1 - shares) * jnp.log(1 - alphas)
    terms["alpha"] = -mean(entropy)
    error = reconstruction - jax.lax.stop_gradient(features)
    terms["reconstruction"] = jnp.square(error).mean()
    total += weights.alpha * terms["alpha"]
    return total + weights.reconstruction * terms["reconstruction"], terms

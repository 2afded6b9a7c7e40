"""The training losses of the flow model (main paper, equations 3 to 5).

Ground-truth layers run front to back, index 0 in front; order scores are pseudo-depths, lowest in
front. All are means in float32.
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from oclr_jax.errors import UserError
from oclr_jax.ops import layering, matching

# Half width, in pixels, of the sparse element {-3, 0, 3} x {-3, 0, 3} of the boundary band.
BOUNDARY_REACH = 3
# A query's dot product with a token is lowered by this: most tokens belong to no layer.
QUERY_OFFSET = 2.0
# The ranking probability is kept away from 0 and 1 by this much (released program).
ORDER_CLAMP = 1e-5


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms beside the cross-entropy, whose weight is 1, and what they compare.

    boundary, order: 0.2 and 0.05 (supplement, section A.3). The order term is the mean over the
      K(K-1)/2 pairs as in the released program; equation 4 divides by K! instead.
    modal: cross-entropy of the softly composed modal masks; 0 in the paper, 0.1 in the released
      program.
    query: cross-entropy of the queries' dot products with the tokens; in neither. Without it the
      transformer learns last, through the U-Net's decoder, and a short training ends before that.
    matching: whether queries are matched to layers at the least cost (Hungarian matching); without
      it ground-truth layer i, front to back, belongs to query i (supplement, table E7, Ours-E).
    supervision: the masks that the training knows. With "modal", whatever compares with amodal
      masks compares with the modal ones (table E7, Ours-F); these never overlap, so that nothing is
      left for the order term to rank.
    """

    boundary: float = 0.2
    order: float = 0.05
    modal: float = 0.0
    query: float = 0.0
    matching: bool = True
    supervision: str = "amodal"

    def __post_init__(self):
        if self.supervision not in ("amodal", "modal"):
            raise UserError(f"loss.supervision is {self.supervision!r}; choose amodal or modal.")


def supervised_masks(
    amodal: UInt8[Array, "*s"], modal: UInt8[Array, "*s"], weights: LossWeights
) -> UInt8[Array, "*s"]:
    """The ground truth that the model's amodal masks learn from."""
    return amodal if weights.supervision == "amodal" else modal


def cross_entropy(logits: Float[Array, "*s"], targets: Array) -> Float[Array, "*s"]:
    """Binary cross-entropy of every logit with its 0/1 target, in the overflow-free form."""
    targets = targets.astype(logits.dtype)
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def amodal_loss(
    amodal_logits: Float[Array, "b t h w k"], amodal: UInt8[Array, "b t h w k"]
) -> Float[Array, ""]:
    """Mean binary cross-entropy over all pixels, frames and layers; empty layers count."""
    return cross_entropy(amodal_logits, amodal).mean()


def boundary_band(masks: UInt8[Array, "b t h w k"]) -> Bool[Array, "b t h w k"]:
    """Pixels near a mask's outline: dilation without erosion by the element {-3, 0, 3}^2.

    The element is the nine points three pixels apart, not a solid square (released program). The
    outside of the image is background to the dilation and foreground to the erosion, so that a
    mask that leaves the image has no band along the image's border.
    """
    masks = masks.astype(bool)
    dilated = _over_element(masks, jnp.logical_or, outside=False)
    eroded = _over_element(masks, jnp.logical_and, outside=True)
    return dilated & ~eroded


def _over_element(masks: Bool[Array, "b t h w k"], combine, *, outside: bool):
    """Folds `combine` over the nine pixels of the element around each pixel, an axis at a time."""
    for axis in (2, 3):
        size = masks.shape[axis]
        padding = [(0, 0)] * masks.ndim
        padding[axis] = (BOUNDARY_REACH, BOUNDARY_REACH)
        padded = jnp.pad(masks, padding, constant_values=outside)
        before, here, after = (
            jax.lax.slice_in_dim(padded, start, start + size, axis=axis)
            for start in (0, BOUNDARY_REACH, 2 * BOUNDARY_REACH)
        )
        masks = combine(combine(before, here), after)
    return masks


def boundary_loss(
    amodal_logits: Float[Array, "b t h w k"],
    amodal: UInt8[Array, "b t h w k"],
    band_pixels: Float[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Mean binary cross-entropy over the band pixels of the whole batch; 0 where there are none.

    The band masks the entropy and not its arguments: equal in value, and free of the NaN gradients
    that log(0) * 0 gives.

    Args:
      amodal_logits, amodal: predictions and ground truth, in one order of the layers.
      band_pixels: for a part of a batch, the mean number of band pixels of the batch's equal parts;
        with it, the mean of the parts' losses is the loss of the batch. None: this is all of it.
    """
    band = boundary_band(amodal)
    entropy = jnp.where(band, cross_entropy(amodal_logits, amodal), 0.0)
    pixels = band.sum() if band_pixels is None else band_pixels
    return entropy.sum() / jnp.where(pixels > 0, pixels, 1)


def overlapping_pairs(amodal: UInt8[Array, "b t h w k"]) -> Bool[Array, "b p"]:
    """Whether the layers of each pair (0, 1), (0, 2), ... (1, 2), ... overlap in any frame."""
    pairs = itertools.combinations(range(amodal.shape[-1]), 2)
    masks = amodal.astype(bool)
    overlap = [jnp.any(masks[..., i] & masks[..., j], axis=(1, 2, 3)) for i, j in pairs]
    return jnp.stack(overlap, axis=-1) if overlap else jnp.zeros((masks.shape[0], 0), bool)


def depth_gaps(order: Float[Array, "b k"]) -> Float[Array, "b p"]:
    """Pseudo-depth of the layer behind minus that of the one in front, pairs as above."""
    pairs = list(itertools.combinations(range(order.shape[-1]), 2))
    gaps = [order[:, j] - order[:, i] for i, j in pairs]
    return jnp.stack(gaps, axis=-1) if gaps else jnp.zeros((order.shape[0], 0), order.dtype)


def order_loss(order: Float[Array, "b k"], amodal: UInt8[Array, "b t h w k"]) -> Float[Array, ""]:
    """Ranking loss on the pseudo-depths of layers that overlap (main paper, equation 4).

    -log sigmoid(depth behind - depth in front), temperature 1, for pairs whose amodal ground truth
    overlaps in any frame; the others count as 0; the mean is over all pairs and clips, 0 for K = 1.

    Args:
      order: pseudo-depths, already in the order of the ground truth's layers.
      amodal: ground truth, front to back.
    """
    gaps = depth_gaps(order)
    if gaps.shape[-1] == 0:
        return jnp.zeros((), order.dtype)
    likelihood = jnp.clip(jax.nn.sigmoid(gaps), ORDER_CLAMP, 1 - ORDER_CLAMP)
    return jnp.where(overlapping_pairs(amodal), -jnp.log(likelihood), 0.0).mean()


def modal_loss(
    amodal_logits: Float[Array, "b t h w k"],
    order: Float[Array, "b #t k"],
    modal: UInt8[Array, "b t h w k"],
) -> Float[Array, ""]:
    """Mean binary cross-entropy of the softly composed modal masks (released program).

    Args:
      amodal_logits, order: predictions, in one order of the layers.
      modal: modal ground truth in the same order.
    """
    visible = layering.soft_modal(jax.nn.sigmoid(amodal_logits), order)
    tiny = jnp.finfo(visible.dtype).eps
    visible = jnp.clip(visible, tiny, 1 - tiny)
    return -jnp.log(jnp.where(modal.astype(bool), visible, 1 - visible)).mean()


def query_logits(query_maps: Float[Array, "b t h w k"]) -> Float[Array, "b t h w k"]:
    """The model's `query_maps` as logits of a token belonging to a query's layer."""
    return query_maps.astype(jnp.float32) - QUERY_OFFSET


def token_shares(
    amodal: UInt8[Array, "b t H W k"], height: int, width: int
) -> Float[Array, "b t {height} {width} k"]:
    """The share of each token's pixels that each layer covers; tokens tile the frame."""
    b, t, rows, columns, k = amodal.shape
    tiles = (b, t, height, rows // height, width, columns // width, k)
    return amodal.astype(jnp.float32).reshape(tiles).mean(axis=(3, 5))


def _match(
    amodal_logits: Float[Array, "b t h w k"],
    amodal: UInt8[Array, "b t h w k"],
    fits: Float[Array, "b t _h _w k"] | None,
    shares: Float[Array, "b t _h _w k"] | None,
    weights: LossWeights,
) -> Int[Array, "b k"]:
    """match[b, gt] = query; by masks and, in one matching, by the queries' fit to the tokens.

    One for both, so that a query, its order and its output channel stay together.
    """
    if not weights.matching:
        clips, layers = amodal.shape[0], amodal.shape[-1]
        return jnp.broadcast_to(jnp.arange(layers), (clips, layers))
    cost = matching.pairwise_bce(jax.lax.stop_gradient(amodal_logits), amodal)
    if weights.query:
        cost += weights.query * matching.pairwise_bce(jax.lax.stop_gradient(fits), shares)
    return matching.assign(cost)


def layered_loss(
    amodal_logits: Float[Array, "b t h w k"],
    order: Float[Array, "b k"] | Float[Array, "b t k"],
    amodal: UInt8[Array, "b t h w k"],
    modal: UInt8[Array, "b t h w k"],
    weights: LossWeights,
    query_maps: Float[Array, "b t _h _w k"] | None = None,
    band_pixels: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The total loss of a batch after matching (main paper, equation 5).

    Outputs that are not finite are not replaced by 0, as the released program does: that would hide
    a diverged model from the loop, which stops on a loss that is not finite.

    Args:
      amodal_logits, order: the model's output; the order per clip, or per frame.
      amodal, modal: ground truth, front to back, empty layers last.
      weights: the weights of the terms.
      query_maps: the model's intermediate of that name; needed for the query term alone.
      band_pixels: for a part of a batch, as `boundary_loss` has it. All other terms are means over
        clips, so the mean of the losses of equal parts is the loss of the batch.

    Returns:
      the total, and its terms by name (unweighted).
    """
    amodal_logits = amodal_logits.astype(jnp.float32)
    order = order.astype(jnp.float32)
    order = order[:, None] if order.ndim == 2 else order
    amodal = supervised_masks(amodal, modal, weights)
    fits = shares = None
    if weights.query:
        fits = query_logits(query_maps)
        shares = token_shares(amodal, *fits.shape[2:4])
    match = _match(amodal_logits, amodal, fits, shares, weights)
    # The ground truth is permuted, as bytes, rather than the logits, as floats with gradients.
    given = matching.invert(match)
    amodal_given = matching.take_layers(amodal, given)
    terms = {
        "bce": amodal_loss(amodal_logits, amodal_given),
        "boundary": boundary_loss(amodal_logits, amodal_given, band_pixels),
        "order": order_loss(matching.take_layers(order.mean(axis=1), match), amodal),
    }
    total = terms["bce"] + weights.boundary * terms["boundary"] + weights.order * terms["order"]
    if weights.modal:
        modal_given = matching.take_layers(modal, given)
        terms["modal"] = modal_loss(amodal_logits, order, modal_given)
        total = total + weights.modal * terms["modal"]
    if weights.query:
        terms["query"] = cross_entropy(fits, matching.take_layers(shares, given)).mean()
        total = total + weights.query * terms["query"]
    return total, terms

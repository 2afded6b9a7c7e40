"""Training losses of the OCLR flow model (first paper, equations 3 to 5).

Ground-truth layers run front to back, index 0 in front. Order values are pseudo-depths, lowest in
front. Every loss is a float32 mean.
"""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from oclr_jax.errors import UserError
from oclr_jax.ops import layering, matching

# Half width, in pixels, of the structuring element {-3, 0, 3} x {-3, 0, 3} of the boundary band.
BOUNDARY_REACH = 3
# Subtracted from the dot products of queries and tokens: most tokens belong to no layer.
QUERY_OFFSET = 2.0
# The ranking probability is clipped to [ORDER_CLAMP, 1 - ORDER_CLAMP] (released program).
ORDER_CLAMP = 1e-5


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms, relative to the amodal cross-entropy, and the ablation switches.

    boundary, order: 0.2 and 0.05 (supplement, section A.3). The order term is the mean over the
      K(K-1)/2 pairs, as in the released program; equation 4 divides by K! instead.
    modal: cross-entropy of the softly composed modal masks. 0 in the paper, 0.1 in the released
      program.
    query: cross-entropy of the dot products of queries and tokens. Neither in the paper nor in the
      released program. Without it the transformer only learns through the U-Net decoder, late in
      training, and short trainings end before that.
    matching: match queries to layers at the least cost (Hungarian matching). Otherwise ground-truth
      layer i, front to back, belongs to query i (supplement, table E7, Ours-E).
    supervision: "amodal" or "modal" ground truth for the amodal outputs. Modal masks (table E7,
      Ours-F) never overlap, so the order term is then 0.

    Raises UserError for an unknown `supervision`.
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
    """The ground truth of the amodal outputs: `amodal` or `modal`, by `weights.supervision`."""
    return amodal if weights.supervision == "amodal" else modal


def cross_entropy(logits: Float[Array, "*s"], targets: Array) -> Float[Array, "*s"]:
    """Element-wise binary cross-entropy of logits with targets in [0, 1]; overflow-free."""
    targets = targets.astype(logits.dtype)
    return jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def amodal_loss(
    amodal_logits: Float[Array, "b t h w k"], amodal: UInt8[Array, "b t h w k"]
) -> Float[Array, ""]:
    """Mean binary cross-entropy over all pixels, frames and layers; empty layers count."""
    return cross_entropy(amodal_logits, amodal).mean()


def boundary_band(masks: UInt8[Array, "b t h w k"]) -> Bool[Array, "b t h w k"]:
    """Pixels near an outline: dilation minus erosion by the element {-3, 0, 3} x {-3, 0, 3}.

    The element is nine points three pixels apart, not a solid square (released program). Outside
    the image, the dilation sees background and the erosion foreground, so a mask that leaves the
    image has no band along the image border.
    """
    masks = masks.astype(bool)
    dilated = _over_element(masks, jnp.logical_or, outside=False)
    eroded = _over_element(masks, jnp.logical_and, outside=True)
    return dilated & ~eroded


def _over_element(masks: Bool[Array, "b t h w k"], combine, *, outside: bool):
    """Reduces the nine pixels of the element around each pixel with `combine`, axis by axis."""
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
    """Mean binary cross-entropy over the boundary band of the whole batch; 0 for an empty band.

    The band masks the entropy, not its arguments: same value, but without the NaN gradients of
    log(0) * 0.

    Args:
      amodal_logits, amodal: predictions and ground truth, with layers in the same order.
      band_pixels: the divisor for a part of a batch: the mean number of band pixels over the equal
        parts of the batch. The mean of the losses of the parts is then the loss of the batch. None
        if this is the whole batch.
    """
    band = boundary_band(amodal)
    entropy = jnp.where(band, cross_entropy(amodal_logits, amodal), 0.0)
    pixels = band.sum() if band_pixels is None else band_pixels
    return entropy.sum() / jnp.where(pixels > 0, pixels, 1)


def overlapping_pairs(amodal: UInt8[Array, "b t h w k"]) -> Bool[Array, "b p"]:
    """Whether layers i < j overlap in any frame, for the pairs (0, 1), (0, 2), ... (1, 2), ..."""
    pairs = itertools.combinations(range(amodal.shape[-1]), 2)
    masks = amodal.astype(bool)
    overlap = [jnp.any(masks[..., i] & masks[..., j], axis=(1, 2, 3)) for i, j in pairs]
    return jnp.stack(overlap, axis=-1) if overlap else jnp.zeros((masks.shape[0], 0), bool)


def depth_gaps(order: Float[Array, "b k"]) -> Float[Array, "b p"]:
    """Pseudo-depth of layer j minus that of layer i, for the pairs of `overlapping_pairs`."""
    pairs = list(itertools.combinations(range(order.shape[-1]), 2))
    gaps = [order[:, j] - order[:, i] for i, j in pairs]
    return jnp.stack(gaps, axis=-1) if gaps else jnp.zeros((order.shape[0], 0), order.dtype)


def order_loss(order: Float[Array, "b k"], amodal: UInt8[Array, "b t h w k"]) -> Float[Array, ""]:
    """Ranking loss on the pseudo-depths of overlapping layers (first paper, equation 4).

    -log sigmoid(depth of the back layer - depth of the front layer), temperature 1, for pairs whose
    amodal ground truth overlaps in any frame; 0 for other pairs. The mean is over all pairs and
    clips; 0 for K = 1.

    Args:
      order: predicted pseudo-depths, matched to the ground-truth layers.
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
      amodal_logits, order: predictions; the order per clip or per frame.
      modal: modal ground truth, with layers in the same order as the predictions.
    """
    visible = layering.soft_modal(jax.nn.sigmoid(amodal_logits), order)
    tiny = jnp.finfo(visible.dtype).eps
    visible = jnp.clip(visible, tiny, 1 - tiny)
    return -jnp.log(jnp.where(modal.astype(bool), visible, 1 - visible)).mean()


def query_logits(query_maps: Float[Array, "b t h w k"]) -> Float[Array, "b t h w k"]:
    """Logits for a token to belong to the layer of a query, from the model's `query_maps`."""
    return query_maps.astype(jnp.float32) - QUERY_OFFSET


def token_shares(
    amodal: UInt8[Array, "b t H W k"], height: int, width: int
) -> Float[Array, "b t {height} {width} k"]:
    """The fraction of each token's pixels covered by each layer. Tokens tile the frame."""
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
    """match[b, gt] = query, from the masks and, with the query term, from the query maps.

    One matching for both, so that a query, its depth and its output channel stay together.
    """
    if not weights.matching:
        clips, layers = amodal.shape[0], amodal.shape[-1]
        return jnp.broadcast_to(jnp.arange(layers), (clips, layers))
    cost = matching.pairwise_bce(jax.lax.stop_gradient(amodal_logits), amodal)
    if weights.query:
        cost += weights.query * matching.pairwise_bce(jax.lax.stop_gradient(fits), shares)
    return matching.match_layers(cost)


def layered_loss(
    amodal_logits: Float[Array, "b t h w k"],
    order: Float[Array, "b k"] | Float[Array, "b t k"],
    amodal: UInt8[Array, "b t h w k"],
    modal: UInt8[Array, "b t h w k"],
    weights: LossWeights,
    query_maps: Float[Array, "b t _h _w k"] | None = None,
    band_pixels: Float[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Total loss of a batch after matching (first paper, equation 5).

    Non-finite outputs are not replaced by 0, unlike in the released program: that would hide a
    diverged model from the training loop, which checks for a finite loss.

    Args:
      amodal_logits, order: model output; the order per clip or per frame.
      amodal, modal: ground truth, front to back, empty layers last.
      weights: weights of the terms.
      query_maps: intermediate of the model; only needed for the query term.
      band_pixels: as in `boundary_loss`, for a part of a batch. All other terms are means over
        clips, so the mean of the losses of equal parts is the loss of the batch.

    Returns:
      total loss, and the unweighted terms by name.
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
    # Permuting the ground truth (bytes) is cheaper than permuting the logits (floats, gradients).
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

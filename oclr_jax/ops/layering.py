"""Modal masks from amodal layers and their depth order (first paper, equation 2).

Layers are ordered by pseudo-depth, **lowest = front**. A modal mask is the part of an amodal mask
that is not covered by layers in front of it.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def hard_modal(
    amodal: Bool[Array, "b t h w k"], order: Float[Array, "#b #t k"]
) -> Bool[Array, "b t h w k"]:
    """The visible part of every binary layer.

    Args:
      amodal: binary amodal masks.
      order: pseudo-depth of every layer, per clip (time axis 1) or per frame. At equal depth, the
        layer with the lower index is in front.

    Returns:
      binary modal masks; at most one layer is set at a pixel.
    """
    layers = amodal.shape[-1]
    index = jnp.arange(layers)
    depth_j, depth_i = order[..., :, None], order[..., None, :]
    tie = (depth_j == depth_i) & (index[:, None] < index[None, :])
    j_hides_i = ((depth_j < depth_i) | tie)[:, :, None, None]  # b t 1 1 j i
    hidden = [
        jnp.any(jnp.stack([amodal[..., j] & j_hides_i[..., j, i] for j in range(layers)]), axis=0)
        for i in range(layers)
    ]
    return amodal & ~jnp.stack(hidden, axis=-1)


def soft_modal(
    amodal: Float[Array, "b t h w k"], order: Float[Array, "#b #t k"]
) -> Float[Array, "b t h w k"]:
    """The expected visible part of every soft layer under a soft order.

    The weight of each of the K! orders is the product of sigmoid(depth of the back layer - depth of
    the front layer) over its pairs, normalised over the orders (released program). Orders with the
    same set of layers in front of a layer show the same part of it, so their scalar weights are
    summed first: no array of K! masks is built.

    Args:
      amodal: amodal probabilities.
      order: pseudo-depth of every layer, per clip (time axis 1) or per frame.

    Returns:
      modal probabilities.
    """
    layers = amodal.shape[-1]
    weight_in_front = _weights_of_front_sets(order)
    uncovered = 1.0 - amodal
    modal = []
    for i in range(layers):
        seen = jnp.zeros_like(amodal[..., i])
        for front, weight in weight_in_front[i].items():
            part = weight[:, :, None, None]
            for j in front:
                part = part * uncovered[..., j]
            seen = seen + part
        modal.append(amodal[..., i] * seen)
    return jnp.stack(modal, axis=-1)


def overlap_order(logits: Float[Array, "b t h w k"]) -> Float[Array, "b k"]:
    """A depth order from the masks: where two layers overlap, the more confident is in front.

    Among the pixels of a clip that two layers share, a layer wins those where its logit is larger.
    Its pseudo-depth is the sum, over the other layers, of the fraction of shared pixels that it
    loses minus the fraction that it wins; 0 if it overlaps no layer. Not in the papers, where the
    order comes from the order head of the model.

    Args:
      logits: amodal logits.

    Returns:
      pseudo-depth per clip and layer, in [1 - k, k - 1], lowest in front.
    """
    layers = logits.shape[-1]
    depth = [jnp.zeros(logits.shape[0]) for _ in range(layers)]
    for i, j in itertools.combinations(range(layers), 2):
        one, other = logits[..., i], logits[..., j]
        shared = (one > 0) & (other > 0)
        won = jnp.where(shared, jnp.sign(one - other), 0.0).sum(axis=(1, 2, 3))
        lead = won / jnp.maximum(shared.sum(axis=(1, 2, 3)), 1)
        depth[i] -= lead
        depth[j] += lead
    return jnp.stack(depth, axis=-1)


def _weights_of_front_sets(
    order: Float[Array, "b t k"],
) -> list[dict[tuple[int, ...], Float[Array, "b t"]]]:
    """For each layer: set of layers in front of it -> probability of that set."""
    layers = order.shape[-1]
    permutations = list(itertools.permutations(range(layers)))  # each front to back
    pairs = list(itertools.combinations(range(layers), 2))
    if pairs:
        front = np.array([[p[i] for i, _ in pairs] for p in permutations])
        back = np.array([[p[j] for _, j in pairs] for p in permutations])
        score = jax.nn.log_sigmoid(order[..., back] - order[..., front]).sum(axis=-1)
        weights = jax.nn.softmax(score, axis=-1)
    else:
        weights = jnp.ones((*order.shape[:-1], 1), order.dtype)
    sets: list[dict[tuple[int, ...], Array]] = [{} for _ in range(layers)]
    for index, permutation in enumerate(permutations):
        for place, layer in enumerate(permutation):
            key = tuple(sorted(permutation[:place]))
            sets[layer][key] = sets[layer].get(key, 0.0) + weights[..., index]
    return sets

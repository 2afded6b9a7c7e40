"""Mean field inference in a dense conditional random field.

Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NeurIPS 2011, with the Potts model and symmetric normalisation of the kernels.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from oclr_jax.ops.permutohedral import materialize

# Computes K values, for the kernel K of all pairs of points.
Filter = Callable[[Float[Array, "n"]], Float[Array, "n"]]


def mean_field(
    unary: Float[Array, "labels n"], kernels: Sequence[tuple[float, Filter]], iterations: int
) -> Float[Array, "labels n"]:
    """Returns the approximate marginal probabilities of the labels of n points.

    Args:
      unary: energy of each label, -log of its probability.
      kernels: weight and filter of each. A filter includes each point's own contribution.
      iterations: updates of all points at once.
    """
    scales = [1 / jnp.sqrt(apply(jnp.ones_like(unary[0])) + 1e-20) for _, apply in kernels]

    def message(q):
        return sum(
            weight * scale * apply(scale * q)
            for (weight, apply), scale in zip(kernels, scales, strict=True)
        )

    # Probabilities sum to 1 and messages to all labels to this, so one label need not be filtered.
    total = message(jnp.ones_like(unary[0]))

    def update(_, q):
        messages = materialize([message(one) for one in q[1:]])
        messages = [total - sum(messages), *messages]
        return _softmax([one - energy for one, energy in zip(messages, unary, strict=True)])

    return jnp.stack(jax.lax.fori_loop(0, iterations, update, _softmax(list(-unary))))


def _softmax(logits: list[Float[Array, "n"]]) -> list[Float[Array, "n"]]:
    # On a CPU, ten times as fast as jax.nn.softmax over the first of two axes.
    logits = materialize(logits)
    largest = reduce(jnp.maximum, logits)
    exponentials = materialize([jnp.exp(one - largest) for one in logits])
    return [one / sum(exponentials) for one in exponentials]


def exact_filter(features: Float[Array, "d n"]) -> Filter:
    """The kernel exp(-|f_i - f_j|^2 / 2) over all pairs; memory grows with the square of n."""
    difference = features[:, :, None] - features[:, None]
    kernel = jnp.exp(-(difference**2).sum(axis=0) / 2)
    return lambda values: values @ kernel


def spatial_filter(height: int, width: int, sigma: float) -> Filter:
    """The kernel exp(-|p_i - p_j|^2 / (2 sigma^2)) of the pixels of an image, row by row."""

    def apply(values):
        # Beyond, the kernel is below the resolution of the numbers.
        radius = int(np.ceil(sigma * np.sqrt(-2 * np.log(jnp.finfo(values.dtype).eps))))
        image = values.reshape(height, width)
        for axis, size in enumerate(image.shape):
            image = _convolve(image, axis, min(radius, size - 1), sigma)
        return image.reshape(-1)

    return apply


def _convolve(
    image: Float[Array, "h w"], axis: int, radius: int, sigma: float
) -> Float[Array, "h w"]:
    padding = [(radius, radius) if one == axis else (0, 0) for one in range(2)]
    padded = materialize(jnp.pad(image, padding))
    size = image.shape[axis]
    shifted = [
        np.exp(-0.5 * ((start - radius) / sigma) ** 2)
        * jax.lax.slice_in_dim(padded, start, start + size, axis=axis)
        for start in range(2 * radius + 1)
    ]
    return materialize(sum(shifted))

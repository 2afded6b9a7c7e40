"""Correlation windows against a float64 reference, stored and on demand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from oclr_jax.ops.correlation import (
    correlation_pyramid,
    feature_pyramid,
    lookup,
    lookup_on_demand,
)

LEVELS, RADIUS = 3, 2


def reference(first: np.ndarray, second: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Windows of one pair, pixel by pixel, in float64."""
    h, w, c = first.shape
    offsets = np.arange(-RADIUS, RADIUS + 1)
    windows = np.zeros((h, w, LEVELS, offsets.size, offsets.size))
    for y, x in np.ndindex(h, w):
        level = np.einsum("c,pqc->pq", first[y, x].astype(np.float64), second) / np.sqrt(c)
        for index in range(LEVELS):
            if index:
                p, q = (side // 2 * 2 for side in level.shape)
                level = level[:p, :q].reshape(p // 2, 2, q // 2, 2).mean(axis=(1, 3))
            u, v = position[y, x] / 2**index
            grid = np.meshgrid(u + offsets, v + offsets, indexing="ij")  # x first
            windows[y, x, index] = map_coordinates(
                level, grid[::-1], order=1, mode="grid-constant", cval=0
            )
    return windows.reshape(h, w, -1)


def random_pair(seed: int, n: int = 1, h: int = 5, w: int = 7, c: int = 6):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n, h, w, c)).astype(np.float32)
    # Some windows cross the border, some lie entirely outside.
    position = rng.uniform(-9, 14, (n, h, w, 2)).astype(np.float32)
    position[:, 0] = np.rint(position[:, 0])
    return first, second, position


@pytest.mark.parametrize("on_demand", [False, True])
def test_windows_are_bilinear_samples_of_the_pooled_correlation(on_demand):
    first, second, position = map(jnp.asarray, random_pair(0, n=2))
    if on_demand:
        windows = both_ways(first, second, position)[1]
    else:
        windows = both_ways(first, second, position)[0]
    for index in range(2):
        expected = reference(*(np.asarray(a[index]) for a in (first, second, position)))
        np.testing.assert_allclose(windows[index], expected, atol=1e-5)


@jax.jit
def both_ways(first, second, position):
    stored = lookup(correlation_pyramid(first, second, LEVELS, RADIUS), position, RADIUS)
    asked = lookup_on_demand(first, feature_pyramid(second, LEVELS), position, RADIUS)
    return stored, asked


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_stored_and_on_demand_are_equal(seed):
    stored, asked = both_ways(*map(jnp.asarray, random_pair(seed)))
    np.testing.assert_allclose(stored, asked, atol=1e-5)


def test_stored_and_on_demand_have_the_same_gradient():
    first, second, position = map(jnp.asarray, random_pair(3))
    weight = jax.random.normal(jax.random.key(0), (LEVELS * (2 * RADIUS + 1) ** 2,))

    def gradient(way):
        def loss(first, second):
            return (both_ways(first, second, position)[way] @ weight).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(first, second)

    for one, other in zip(gradient(0), gradient(1), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)

"""The permutohedral lattice against an independent one that stores its vertices in a dict."""

import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops import permutohedral
from oclr_jax.ops.permutohedral import build_lattice, lattice_filter


def simplex(feature: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """The vertices around a point and its barycentric weights."""
    d = len(feature)
    basis = np.zeros((d + 1, d))
    for i in range(d):
        basis[: i + 1, i] = 1
        basis[i + 1, i] = -(i + 1)
        basis[:, i] *= np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2))
    elevated = basis @ feature
    corner = (d + 1) * np.round(elevated / (d + 1)).astype(int)
    # Moves to the lattice point whose coordinates sum to 0: up where the rest is largest.
    missing = -corner.sum() // (d + 1)
    order = np.argsort(corner - elevated, kind="stable")
    for axis in order[:missing] if missing > 0 else order[missing:][: -min(missing, 0)]:
        corner[axis] += (d + 1) * np.sign(missing)
    rest = (elevated - corner) / (d + 1)
    largest_first = np.argsort(-rest, kind="stable")
    ordered = rest[largest_first]
    weights = [1 - ordered[0] + ordered[-1], *(ordered[:-1] - ordered[1:])[::-1]]
    vertices = []
    for r in range(d + 1):
        vertex = corner + r
        if r:
            vertex[largest_first[d + 1 - r :]] -= d + 1
        vertices.append(tuple(int(one) for one in vertex))
    return list(zip(vertices, weights, strict=True))


def dict_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    d = len(features)
    simplices = [simplex(feature) for feature in features.T]
    held: dict[tuple[int, ...], float] = {}
    for corners, value in zip(simplices, values, strict=True):
        for vertex, weight in corners:
            held[vertex] = held.get(vertex, 0) + weight * value
    for axis in range(d + 1):
        step = np.ones(d + 1, int)
        step[axis] -= d + 1
        held = {
            vertex: value
            + held.get(tuple(np.array(vertex) + step), 0) / 2
            + held.get(tuple(np.array(vertex) - step), 0) / 2
            for vertex, value in held.items()
        }
    sliced = [sum(held[vertex] * weight for vertex, weight in corners) for corners in simplices]
    return np.array(sliced) / (1 + 2.0**-d)


@pytest.mark.parametrize("spread", [0.3, 2.0, 30.0])
def test_a_lattice_in_a_dict(spread):
    rng = np.random.default_rng(0)
    features = (spread * rng.standard_normal((5, 200))).astype(np.float32)
    values = rng.random(200, np.float32)
    found = lattice_filter(build_lattice(jnp.asarray(features)), jnp.asarray(values))
    np.testing.assert_allclose(found, dict_filter(features, values), rtol=1e-3)


def test_it_approximates_the_gaussian_kernel():
    rng = np.random.default_rng(1)
    features = rng.uniform(0, 3, (2, 3000)).astype(np.float32)
    values = rng.random(3000, np.float32)
    kernel = np.exp(-((features[:, :, None] - features[:, None]) ** 2).sum(axis=0) / 2)
    found = lattice_filter(build_lattice(jnp.asarray(features)), jnp.asarray(values))
    exact = kernel @ values
    assert np.abs(found / exact * exact.sum() / found.sum() - 1).mean() < 0.1


def test_more_vertices_than_the_smallest_capacity(monkeypatch):
    rng = np.random.default_rng(2)
    features = jnp.asarray(4 * rng.standard_normal((3, 300)), jnp.float32)
    values = jnp.asarray(rng.random(300), jnp.float32)
    wide = lattice_filter(build_lattice(features), values)
    monkeypatch.setattr(permutohedral, "_MIN_CAPACITY", 1)
    lattice = build_lattice(features)
    vertices = lattice.neighbours.shape[-1] - 1
    assert vertices & (vertices - 1) == 0 and vertices < 4 * 300
    np.testing.assert_allclose(lattice_filter(lattice, values), wide, rtol=1e-6)


def test_points_at_one_place_share_their_vertices():
    features = jnp.full((5, 50), 0.7)
    once = lattice_filter(build_lattice(features[:, :1]), jnp.ones(1))
    found = lattice_filter(build_lattice(features), jnp.ones(50))
    np.testing.assert_allclose(found, 50 * float(once[0]) * np.ones(50), rtol=1e-5)

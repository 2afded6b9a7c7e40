"""Gaussian filtering of points in a feature space, on a permutohedral lattice.

Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010. Each
point lies in a simplex of d + 1 lattice vertices. Values are splatted to these vertices with
barycentric weights, blurred along the d + 1 lattice directions, and sliced back.

Only vertices around points are stored. They are found with a hash table that is filled in
parallel: in every round each vertex without a slot claims one, and the losers try the next slot.
Vertices are told apart by their slot and 31 more bits of hash.

Arrays of points are tuples of planes, one per coordinate or corner, and every gather has one axis:
on a CPU, XLA is ten times slower with stacked arrays.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped, UInt32

_MIN_CAPACITY = 4096
_IN_BOUNDS = "promise_in_bounds"

Planes = tuple[Int32[Array, "n"], ...]
Weights = tuple[Float[Array, "n"], ...]


class Lattice(NamedTuple):
    """A lattice around n points of d dimensions. Vertex m, the last, stands for missing ones."""

    vertices: Planes  # by corner: the vertices of the simplex around each point
    weights: Weights  # by corner: barycentric
    neighbours: Int32[Array, "corners 2 vertices"]  # along each direction; m + 1 vertices


class _Simplices(NamedTuple):
    """The simplex around each point: its corner of remainder 0, and the order of its corners."""

    corner: Planes  # by coordinate; the last one is left out, as coordinates sum to 0
    rank: Planes  # by coordinate
    weights: Weights  # by corner


class _Vertices(NamedTuple):
    """The vertices in a hash table. Entry r * n + i is corner r of the simplex around point i."""

    table: UInt32[Array, "slots"]  # fingerprint of the vertex in each slot, 0 if empty
    number: Int32[Array, "slots"]  # of that vertex
    slot: Int32[Array, "entries"]  # of each entry
    first: Bool[Array, "entries"]  # one entry per vertex
    count: Int32[Array, ""]  # number of vertices


def build_lattice(features: Float[Array, "d n"]) -> Lattice:
    """Builds the lattice for the kernel exp(-|f_i - f_j|^2 / 2).

    Waits for the number of vertices, and compiles one program for each power of two above it.
    """
    simplices = _find_simplices(features)
    vertices = _find_vertices(simplices)
    capacity = max(_MIN_CAPACITY, 1 << int(vertices.count).bit_length())
    return _connect(simplices, vertices, capacity)


def lattice_filter(lattice: Lattice, values: Float[Array, "n"]) -> Float[Array, "n"]:
    """Sums `values` of all points, weighted with the kernel: an approximation of K values."""
    corners = len(lattice.weights)
    splat = jnp.zeros(lattice.neighbours.shape[-1], values.dtype)
    for corner, weight in zip(lattice.vertices, lattice.weights, strict=True):
        splat = splat.at[corner].add(values * weight, mode=_IN_BOUNDS)

    def blur(splat, neighbours):
        after, before = neighbours
        return splat + (_take(splat, after) + _take(splat, before)) / 2, None

    # A loop, so that XLA does not merge the steps and compute them many times.
    blurred, _ = jax.lax.scan(blur, splat, lattice.neighbours)
    sliced = [
        _take(blurred, corner) * weight
        for corner, weight in zip(lattice.vertices, lattice.weights, strict=True)
    ]
    return sum(sliced) / (1 + 2.0 ** (1 - corners))


def materialize(arrays):
    """Has XLA compute a tree of arrays once, instead of again for each use."""
    return jax.lax.optimization_barrier(arrays)


@jax.jit
def _find_simplices(features: Float[Array, "d n"]) -> _Simplices:
    """Finds the simplex around each point (sections 3.1 and 3.2)."""
    d = len(features)
    # Position in the hyperplane of d + 1 coordinates that sum to 0.
    elevated, total = [], jnp.zeros_like(features[0])
    for i in reversed(range(d)):
        scaled = features[i] * (np.sqrt(2 / 3) * (d + 1) / np.sqrt((i + 1) * (i + 2)))
        elevated.insert(0, total - (i + 1) * scaled)
        total = total + scaled
    elevated = materialize([total, *elevated])
    nearest = [jnp.round(one / (d + 1)).astype(jnp.int32) for one in elevated]
    rest = materialize([one - (d + 1) * near for one, near in zip(elevated, nearest, strict=True)])
    excess, rank = sum(nearest), []
    for i in range(d + 1):
        larger = [
            rest[j] >= rest[i] if j < i else rest[j] > rest[i] for j in range(d + 1) if j != i
        ]
        rank.append(sum(one.astype(jnp.int32) for one in larger) + excess)
    rank = materialize(rank)
    wrap = [(one < 0).astype(jnp.int32) - (one > d).astype(jnp.int32) for one in rank]
    rank = [one + (d + 1) * by for one, by in zip(rank, wrap, strict=True)]
    nearest = [near + by for near, by in zip(nearest, wrap, strict=True)]
    offset = [one / (d + 1) - near for one, near in zip(elevated, nearest, strict=True)]
    rank, offset, nearest = materialize((rank, offset, nearest))
    pairs = list(zip(rank, offset, strict=True))
    by_rank = materialize([sum(jnp.where(k == r, by, 0) for k, by in pairs) for r in range(d + 1)])
    weights = [1 + by_rank[d] - by_rank[0]]
    weights += [by_rank[d - r] - by_rank[d - r + 1] for r in range(1, d + 1)]
    corner = [(d + 1) * near for near in nearest[:d]]
    return _Simplices(tuple(corner), tuple(rank[:d]), tuple(weights))


def _take(values: Shaped[Array, "n"], indices: Int[Array, "m"]) -> Shaped[Array, "m"]:
    return values.at[indices].get(mode=_IN_BOUNDS)


def _corner(simplices: _Simplices, r: int) -> list[Int32[Array, "n"]]:
    """Coordinates of the corner of remainder `r` of each simplex."""
    d = len(simplices.corner)
    return [
        corner + r - (d + 1) * (rank > d - r)
        for corner, rank in zip(simplices.corner, simplices.rank, strict=True)
    ]


def _hash(coordinates: list[Int32[Array, "n"]]) -> tuple[UInt32[Array, "n"], UInt32[Array, "n"]]:
    """Two independent hashes of each vertex; the second is not 0."""
    slot = fingerprint = jnp.zeros(coordinates[0].shape, jnp.uint32)
    for coordinate in coordinates:
        bits = coordinate.astype(jnp.uint32)
        slot = _mix(slot ^ bits, 0x85EBCA6B, 0xC2B2AE35)
        fingerprint = _mix(fingerprint ^ bits, 0x7FEB352D, 0x846CA68B)
    return slot, fingerprint | 1


def _mix(bits: UInt32[Array, "n"], first: int, second: int) -> UInt32[Array, "n"]:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(first)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(second)
    return bits ^ (bits >> 16)


@jax.jit
def _find_vertices(simplices: _Simplices) -> _Vertices:
    corners, n = len(simplices.weights), len(simplices.weights[0])
    entries, slots = corners * n, 1 << (8 * n - 1).bit_length()
    hashes = materialize([_hash(_corner(simplices, r)) for r in range(corners)])
    slot, fingerprint = (jnp.concatenate(parts) for parts in zip(*hashes, strict=True))
    slot = (slot % slots).astype(jnp.int32)

    def claim(state):
        table, slot, lost = state
        slot = materialize(jnp.where(lost, (slot + 1) % slots, slot))
        claimed = materialize(jnp.where(_take(table, slot) == 0, slot, slots))
        table = table.at[claimed].max(fingerprint, mode="drop")
        return table, slot, _take(table, slot) != fingerprint

    table = jnp.zeros(slots, jnp.uint32).at[slot].max(fingerprint, mode=_IN_BOUNDS)
    state = table, slot, _take(table, slot) != fingerprint
    table, slot, _ = jax.lax.while_loop(lambda state: state[2].any(), claim, state)
    entry = jnp.arange(entries, dtype=jnp.int32)
    owner = jnp.full(slots, entries, jnp.int32).at[slot].min(entry, mode=_IN_BOUNDS)
    first = _take(owner, slot) == entry
    number = jnp.cumsum(first, dtype=jnp.int32) - 1
    at = jnp.where(first, slot, slots)
    numbers = jnp.zeros(slots, jnp.int32).at[at].set(number, mode="drop")
    return _Vertices(table, numbers, slot, first, number[-1] + 1)


@partial(jax.jit, static_argnums=2)
def _connect(simplices: _Simplices, vertices: _Vertices, capacity: int) -> Lattice:
    """Numbers the vertices from 0 to less than `capacity` and finds their neighbours."""
    corners, n = len(simplices.weights), len(simplices.weights[0])
    d, slots = corners - 1, len(vertices.table)
    entries = materialize(_take(vertices.number, vertices.slot))
    at = materialize(jnp.where(vertices.first, entries, capacity))
    entry = jnp.arange(corners * n, dtype=jnp.int32)
    entry = jnp.zeros(capacity, jnp.int32).at[at].set(entry, mode="drop")
    r, point = materialize((entry // n, entry % n))
    coordinates = [
        _take(corner, point) + r - corners * (_take(rank, point) > d - r)
        for corner, rank in zip(simplices.corner, simplices.rank, strict=True)
    ]
    coordinates = materialize(coordinates)
    own = jnp.arange(capacity, dtype=jnp.int32)

    def find(direction):
        """Numbers of the neighbours of each vertex, `capacity` where there is none."""
        steps = [corners * (axis == direction).astype(jnp.int32) - 1 for axis in range(d)]
        hashes = _hash([one + step for one, step in zip(coordinates, steps, strict=True)])
        slot, fingerprint = materialize(hashes)

        def go_on(state):
            slot, _, passed = state
            slot = materialize(jnp.where(passed, (slot + 1) % slots, slot))
            found = materialize(_take(vertices.table, slot))
            return slot, found, (found != fingerprint) & (found != 0)

        slot = (slot % slots).astype(jnp.int32)
        start = go_on((slot, slot, jnp.zeros(capacity, bool)))
        slot, found, _ = jax.lax.while_loop(lambda state: state[2].any(), go_on, start)
        exists = (own < vertices.count) & (found == fingerprint)
        after = jnp.where(exists, _take(vertices.number, slot), capacity)
        before = jnp.full(capacity, capacity, jnp.int32).at[after].set(own, mode="drop")
        return jnp.stack([after, before])

    neighbours = jax.lax.map(find, jnp.arange(corners))
    neighbours = jnp.pad(neighbours, ((0, 0), (0, 0), (0, 1)), constant_values=capacity)
    return Lattice(tuple(entries.reshape(corners, n)), simplices.weights, neighbours)

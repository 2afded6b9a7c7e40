"""Corruption of masks, so that training sees more kinds of errors than one flow model makes.

Every corruption lasts for a spell of consecutive frames, as the errors of a flow model do, so that
each object keeps some good masks.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray


@dataclass(frozen=True)
class Corruption:
    """Probability of each corruption, for each object of a clip; `lost` for each clip.

    truth: the object's true masks replace the predicted ones before corruption.
    missing: a part of the mask is removed.
    foreign: a part of another object is added.
    blob: a disk beside the object is added.
    shifted: masks of up to `max_shift` frames earlier or later.
    empty: no mask.
    lost: all objects of the clip have no mask.
    longest: of a spell, as a fraction of the clip.
    """

    truth: float = 0.3
    missing: float = 0.4
    foreign: float = 0.3
    blob: float = 0.3
    shifted: float = 0.2
    empty: float = 0.2
    lost: float = 0.1
    longest: float = 0.5
    max_shift: int = 3


def corrupt_masks(
    key: PRNGKeyArray,
    masks: Bool[Array, "t h w k"],
    truth: Bool[Array, "t h w k"],
    settings: Corruption,
) -> Bool[Array, "t h w k"]:
    """Corrupts the masks of a clip at random.

    Args:
      key: random key.
      masks: predicted.
      truth: true masks of the same objects.
      settings: what happens how often.
    """
    t, k = masks.shape[0], masks.shape[-1]
    keys = iter(jax.random.split(key, 16))

    def spell(probability, objects=k):
        frames = _spells(next(keys), t, objects, probability, settings.longest)
        return frames[:, None, None, :]

    replaced = jax.random.bernoulli(next(keys), settings.truth, (k,))
    masks = jnp.where(replaced, truth, masks)
    other = jnp.roll(masks, jax.random.randint(next(keys), (), 1, max(k, 2)), axis=-1)
    foreign = other & _half_plane(next(keys), other) & spell(settings.foreign)
    blob = _disk(next(keys), masks) & spell(settings.blob)
    late = jax.random.randint(next(keys), (), -settings.max_shift, settings.max_shift + 1)
    shifted = masks[jnp.clip(jnp.arange(t) + late, 0, t - 1)]
    masks = jnp.where(spell(settings.shifted), shifted, masks)
    removed = _half_plane(next(keys), masks) & spell(settings.missing)
    masks = (masks & ~removed) | foreign | blob
    return masks & ~spell(settings.empty) & ~spell(settings.lost, 1)


def _spells(
    key: PRNGKeyArray, t: int, k: int, probability: float, longest: float
) -> Bool[Array, "t k"]:
    """For each object, with a probability, a run of up to `longest * t` frames."""
    happens, start, length = jax.random.split(key, 3)
    most = max(1, round(longest * t))
    length = jax.random.randint(length, (k,), 1, most + 1)
    start = jax.random.randint(start, (k,), 0, t)
    frame = jnp.arange(t)[:, None]
    inside = (frame >= start) & (frame < start + length)
    return inside & jax.random.bernoulli(happens, probability, (k,))


def _shape(
    masks: Bool[Array, "t h w k"],
) -> tuple[Float[Array, "t 1 1 k 2"], Float[Array, "t 1 1 k"], Float[Array, "1 h w 1 2"]]:
    """Centre (y, x) and spread of every mask in pixels, and the coordinates of the pixels."""
    _, h, w, _ = masks.shape
    rows, columns = jnp.arange(h, dtype=jnp.float32), jnp.arange(w, dtype=jnp.float32)
    pixels = jnp.stack(jnp.meshgrid(rows, columns, indexing="ij"), axis=-1)[None, :, :, None]
    inside = masks.astype(jnp.float32)
    area = jnp.maximum(inside.sum(axis=(1, 2)), 1.0)
    by_row = inside.sum(axis=2)
    by_column = inside.sum(axis=1)
    center = jnp.stack(
        [jnp.einsum("thk,h->tk", by_row, rows), jnp.einsum("twk,w->tk", by_column, columns)], -1
    )
    center = center / area[..., None]
    # The radius of a disk of the same area.
    spread = jnp.sqrt(area / jnp.pi)
    return center[:, None, None], spread[:, None, None], pixels


def _half_plane(key: PRNGKeyArray, masks: Bool[Array, "t h w k"]) -> Bool[Array, "t h w k"]:
    """Pixels on one side of a line near each mask's centre; it moves with the mask."""
    center, spread, pixels = _shape(masks)
    angle, offset = jax.random.split(key)
    angle = jax.random.uniform(angle, (masks.shape[-1],), maxval=2 * jnp.pi)
    offset = jax.random.uniform(offset, (masks.shape[-1],), minval=-0.5, maxval=0.5)
    away = pixels - center
    along = away[..., 0] * jnp.sin(angle) + away[..., 1] * jnp.cos(angle)
    return along > offset * spread


def _disk(key: PRNGKeyArray, masks: Bool[Array, "t h w k"]) -> Bool[Array, "t h w k"]:
    """A disk at the edge of each mask that is not empty; it moves with the mask."""
    center, spread, pixels = _shape(masks)
    angle, radius = jax.random.split(key)
    angle = jax.random.uniform(angle, (masks.shape[-1],), maxval=2 * jnp.pi)
    radius = jax.random.uniform(radius, (masks.shape[-1],), minval=0.2, maxval=0.8)
    middle = center + spread[..., None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1)
    distance = jnp.square(pixels - middle).sum(axis=-1)
    there = masks.any(axis=(1, 2), keepdims=True)
    return (distance < jnp.square(radius * spread)) & there

"""A tiny classifier of pixels by colour, texture and place, trained on the masks of one video."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

HIDDEN = 48  # units of each of the two hidden layers
STEP_PIXELS = 2048  # of one training step
_LEARNING_RATE = 3e-3
# Widths in pixels of 240x427, as shares of the diagonal of the frame.
_NEAR, _FAR, _AROUND = 2 / 490, 6 / 490, 20 / 490
# An object is missing in frames in which its area is below this share of its median.
_PRESENT = 0.25
# Where it is missing, it may be within so many spreads of the place where it was found.
_NEARBY = 2.5
# Places relative to an object's centre are cut off at this many spreads of its mask.
_FARTHEST = 3.0
_LEAST_SPREAD = 0.02  # of the frame's side

Params = list[tuple[Array, Array]]  # weights and bias of each layer


class Pixels(NamedTuple):
    """Pixels to train or check a classifier of c classes on; class 0 is the background."""

    features: Float[Array, "n f"] | Float32[np.ndarray, "n f"]
    places: Float[Array, "n k 4"] | Float32[np.ndarray, "n k 4"]  # see `object_places`
    targets: Float[Array, "n c"] | Float32[np.ndarray, "n c"]  # probabilities; c = k + 1
    # Whether the object of a class is missing from the masks of the frame, though it was found near
    # this pixel in other frames: if the pixel is background, it may yet show the object.
    missing: Bool[Array, "n c"] | Bool[np.ndarray, "n c"]


class Classifier(NamedTuple):
    """Parameters, and the mean and standard deviation of the features that it was trained on."""

    params: Params
    mean: Float[Array, " i"]
    deviation: Float[Array, " i"]


def pixel_features(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 14"]:
    """Describes each pixel of an RGB frame.

    Lab; Lab blurred by 2 and by 6 pixels of 240x427; standard deviation of Lab within the first
    blur; place (x, y) in 0 to 1.
    """
    height, width, _ = image.shape
    diagonal = float(np.hypot(height, width))
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32) / 64
    near, far = (cv2.GaussianBlur(lab, (0, 0), sigma * diagonal) for sigma in (_NEAR, _FAR))
    square = cv2.GaussianBlur(lab * lab, (0, 0), _NEAR * diagonal)
    deviation = np.sqrt(np.maximum(square - near * near, 0))
    place = np.empty((height, width, 2), np.float32)
    place[..., 0] = _unit(width)
    place[..., 1] = _unit(height)[:, None]
    return np.concatenate([lab, near, far, deviation, place], axis=-1)


def object_places(masks: Float[np.ndarray, "t h w c"]) -> Float32[np.ndarray, "t k 4"]:
    """Returns centre (x, y) and spread (x, y) of each object's mask in units of the frame's sides.

    The spread is the standard deviation. Where an object is absent, values are interpolated from
    the frames around. Class 0 is the background, which has no place.
    """
    count, height, width, classes = masks.shape
    x, y = _unit(width), _unit(height)
    found = np.full((count, classes - 1, 4), np.nan, np.float32)
    for index, frame in enumerate(masks):
        solid = (frame[..., 1:] > 0.5).astype(np.float32)
        columns, rows = solid.sum(axis=0), solid.sum(axis=1)
        area = columns.sum(axis=0)
        there = area > 0
        columns, rows = (side[:, there] / area[there] for side in (columns, rows))
        centre = np.stack([x @ columns, y @ rows], axis=-1)
        variance = np.stack([x**2 @ columns, y**2 @ rows], axis=-1) - centre**2
        spread = np.maximum(np.sqrt(np.maximum(variance, 0)), _LEAST_SPREAD)
        found[index, there] = np.concatenate([centre, spread], axis=-1)
    for k in range(classes - 1):
        there = np.flatnonzero(~np.isnan(found[:, k, 0]))
        for value in range(4):
            known = found[there, k, value] if there.size else [0.5]
            found[:, k, value] = np.interp(np.arange(count), there if there.size else [0], known)
    return found


def missing_objects(masks: Float[np.ndarray, "t h w c"]) -> Bool[np.ndarray, "t c"]:
    """Returns in which frames an object is not found, or only a small part of it.

    Neither the background, class 0, nor a class without any mask is ever missing.
    """
    areas = np.stack([(frame > 0.5).sum(axis=(0, 1)) for frame in masks])
    missing = np.zeros(areas.shape, bool)
    for k in range(1, areas.shape[1]):
        found = areas[areas[:, k] > 0, k]
        if found.size:
            missing[:, k] = areas[:, k] < _PRESENT * np.median(found)
    return missing


def collect_pixels(
    rng: np.random.Generator,
    images: Sequence[UInt8[np.ndarray, "H W 3"]],
    masks: Float[np.ndarray, "t h w c"],
    places: Float32[np.ndarray, "t k 4"],
    frames: Sequence[int],
    count: int,
) -> Pixels:
    """Draws `count` pixels of the given frames, evenly from inside, around and outside the masks.

    The pixels inside are drawn evenly from the objects; around is within 20 pixels of 240x427.
    """
    parts, missing = [], missing_objects(masks)
    for number, frame in enumerate(frames):
        share = count * (number + 1) // len(frames) - count * number // len(frames)
        height, width, _ = images[frame].shape
        target = cv2.resize(masks[frame].astype(np.float32), (width, height))
        index = _draw(rng, target, share)
        features = pixel_features(images[frame]).reshape(height * width, -1)[index]
        place = np.broadcast_to(places[frame], (share, *places.shape[1:]))
        absent = np.zeros((share, missing.shape[1]), bool)
        distance = np.abs(features[:, None, -2:] - place[..., :2]) / place[..., 2:]
        absent[:, 1:] = missing[frame, 1:] & (distance < _NEARBY).all(axis=-1)
        parts.append((features, place, target.reshape(height * width, -1)[index], absent))
    return Pixels(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def _draw(
    rng: np.random.Generator, target: Float32[np.ndarray, "h w c"], count: int
) -> Int[np.ndarray, " count"]:
    """Draws flat indices of pixels."""
    background = target[..., 0] > 0.5
    inside = [np.flatnonzero(target[..., k] > 0.5) for k in range(1, target.shape[-1])]
    inside = [pixels for pixels in inside if pixels.size]
    # The distance to the nearest foreground pixel; without any it is that to nothing.
    distance = cv2.distanceTransform(background.astype(np.uint8), cv2.DIST_L2, 3)
    near = distance <= _AROUND * np.hypot(*background.shape)
    groups = [(pixels, 1 / len(inside)) for pixels in inside]
    for group in (background & near, background & ~near):
        pixels = np.flatnonzero(group)
        if pixels.size:
            groups.append((pixels, 1.0))
    if not groups:
        return rng.integers(0, background.size, count)
    shares = np.array([share for _, share in groups])
    numbers = rng.multinomial(count, shares / shares.sum())
    chosen = [
        rng.choice(pixels, number) for (pixels, _), number in zip(groups, numbers, strict=True)
    ]
    return np.concatenate(chosen)


@partial(jax.jit, static_argnames="steps")
def train_classifier(key: Array, pixels: Pixels, steps: int) -> Classifier:
    """Trains a classifier from random parameters, with Adam on batches of STEP_PIXELS pixels.

    The loss is the cross-entropy with soft targets. A pixel of the background may also be of an
    object that is missing in the frame: their probabilities count together.
    """
    inputs = _inputs(pixels.features, pixels.places)
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-3
    inputs = (inputs - mean) / deviation
    sizes = (inputs.shape[1], HIDDEN, HIDDEN, pixels.targets.shape[1])
    key, *keys = jax.random.split(key, len(sizes))
    params = [
        (jax.random.normal(one, (rows, columns)) * np.sqrt(2 / rows), jnp.zeros(columns))
        for one, rows, columns in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))

    def loss(params: Params, index: Array) -> Array:
        log_p = jax.nn.log_softmax(_forward(params, inputs[index]))
        also = jnp.where(pixels.missing[index], log_p, -jnp.inf).at[:, 0].set(log_p[:, 0])
        log_p = log_p.at[:, 0].set(jax.nn.logsumexp(also, axis=-1))
        return -(pixels.targets[index] * log_p).sum(axis=-1).mean()

    def step(carry, key: Array):
        params, state = carry
        index = jax.random.randint(key, (STEP_PIXELS,), 0, len(inputs))
        updates, state = optimizer.update(jax.grad(loss)(params, index), state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
    return Classifier(params, mean, deviation)


@jax.jit
def check_classifier(classifier: Classifier, pixels: Pixels) -> Float[Array, " c"]:
    """Returns the soft IoU of each class with the targets, in frames where it is not missing.

    It is 0 for a class that is missing in all of them.
    """
    found = jnp.exp(log_probabilities(classifier, pixels.features, pixels.places))
    joint = jnp.where(pixels.missing, 0, jnp.maximum(found, pixels.targets)).sum(axis=0)
    both = jnp.where(pixels.missing, 0, jnp.minimum(found, pixels.targets)).sum(axis=0)
    return both / jnp.maximum(joint, 1e-6)


def log_probabilities(
    classifier: Classifier, features: Float[Array, "*n f"], places: Float[Array, "*#n k 4"]
) -> Float[Array, "*n c"]:
    """Returns the logarithms of the probabilities of the background and of each object."""
    inputs = (_inputs(features, places) - classifier.mean) / classifier.deviation
    return jax.nn.log_softmax(_forward(classifier.params, inputs))


def _inputs(features: Float[Array, "*n f"], places: Float[Array, "*#n k 4"]) -> Array:
    """Appends the place of each pixel relative to each object, in units of its spread."""
    relative = (features[..., None, -2:] - places[..., :2]) / places[..., 2:]
    relative = jnp.clip(relative, -_FARTHEST, _FARTHEST)
    return jnp.concatenate([features, relative.reshape(*features.shape[:-1], -1)], axis=-1)


def _forward(params: Params, inputs: Float[Array, "*n i"]) -> Float[Array, "*n c"]:
    for weights, bias in params[:-1]:
        inputs = jax.nn.relu(inputs @ weights + bias)
    return inputs @ params[-1][0] + params[-1][1]


def _unit(length: int) -> Float32[np.ndarray, " length"]:
    """Places of pixel centres, 0 to 1."""
    return (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)

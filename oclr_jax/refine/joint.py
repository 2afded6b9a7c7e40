"""The objects of a frame together: probabilities that add up to 1 with those of the background."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from oclr_jax.tracks import Track
from oclr_jax.video.resize import resize_image

SPECK = 0.03  # see `without_specks`


def joint_probability(
    tracks: Sequence[Track], frame: int, size: tuple[int, int]
) -> Float32[np.ndarray, "h w c"]:
    """Returns the probability of the background and of each of k objects at each pixel; c = k + 1.

    The masks are soft layers, composed front to back: an object is visible with its own probability
    times that of no object in front of it. A modal probability, of a refiner before, is already
    that of the visible part. An object without probabilities has 0.

    Args:
      tracks: the objects.
      frame: number of the frame.
      size: (height, width) of the result.
    """
    joint = np.zeros((*size, len(tracks) + 1), np.float32)
    uncovered = np.ones(size, np.float32)
    for index in sorted(range(len(tracks)), key=lambda index: tracks[index].rank):
        modal = tracks[index].modal_probability.get(frame)
        stored = modal or tracks[index].amodal_probability.get(frame)
        if stored is not None:
            soft = resize_image(stored.decode(), *size)
            joint[..., index + 1] = soft if modal else soft * uncovered
            uncovered = uncovered * (1 - soft)
    joint[..., 0] = np.maximum(1 - joint.sum(axis=-1), 0)
    return joint / joint.sum(axis=-1, keepdims=True)


def visible_masks(
    joint: Float[np.ndarray, "h w c"],
) -> list[tuple[Bool[np.ndarray, "h w"], Float[np.ndarray, "h w"]]]:
    """Returns the modal mask of each object and its probability, above 0.5 inside the mask only.

    A pixel is foreground if the objects together are more probable than the background. It then
    belongs to the most probable object, with the probability of the foreground. So a part that is
    split evenly between two objects is not lost. Specks are left out, see `without_specks`.
    """
    objects = joint[..., 1:]
    foreground = objects.sum(axis=-1)
    winner = np.where(foreground > 0.5, objects.argmax(axis=-1), -1)
    found = []
    for index in range(objects.shape[-1]):
        mask = without_specks(winner == index)
        found.append((mask, np.where(mask, foreground, np.minimum(objects[..., index], 0.5))))
    return found


def without_specks(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Removes connected parts that are smaller than SPECK of the largest one."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count <= 2:
        return mask
    areas = statistics[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0  # the background
    return (areas >= SPECK * areas.max())[labels] & mask

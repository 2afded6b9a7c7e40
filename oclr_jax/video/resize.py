"""Resizing of images and masks. Axes are stretched apart; aspect ratio is not kept."""

import cv2
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

_MOST_CHANNELS = 4  # of which OpenCV averages areas


def resize_image(
    image: Shaped[np.ndarray, "h w *c"], height: int, width: int
) -> Shaped[np.ndarray, "H W *c"]:
    """Stretches one image: area means along an axis that shrinks, linear along one that grows.

    Pixel centres are at half-integers, so the image's borders stay where they are. Values and dtype
    are kept. An image that already has the size is returned as it is.
    """
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    channels = image.shape[2:]
    if channels and channels[-1] > _MOST_CHANNELS:
        parts = [image[..., i : i + _MOST_CHANNELS] for i in range(0, channels[-1], _MOST_CHANNELS)]
        parts = [resize_image(np.ascontiguousarray(part), height, width) for part in parts]
        return np.concatenate(parts, axis=-1)
    # OpenCV averages areas only where both axes shrink, so an axis that shrinks goes first.
    smaller = (min(h, height), min(w, width))
    if smaller != (h, w):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image.reshape(height, width, *channels)


def resize_mask(
    mask: Bool[np.ndarray, "h w"], height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Resizes a binary mask bilinearly and thresholds it at 0.5."""
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return soft > 0.5


def resize_ids(
    ids: UInt8[np.ndarray, "h w *k"], height: int, width: int
) -> UInt8[np.ndarray, "height width *k"]:
    """Resizes object ids, or several masks at once, by nearest neighbour."""
    resized = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    return resized.reshape(height, width, *ids.shape[2:])

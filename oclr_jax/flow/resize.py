"""Resizing of images and of flow fields. Axes are stretched apart; aspect ratio is not kept."""

import cv2
import numpy as np
from jaxtyping import Float32, Shaped


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
    # OpenCV averages areas only where both axes shrink, so an axis that shrinks goes first.
    smaller = (min(h, height), min(w, width))
    if smaller != (h, w):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image.reshape(height, width, *channels)


def resize_flow(
    flow: Float32[np.ndarray, "*b h w c"], height: int, width: int
) -> Float32[np.ndarray, "*b H W c"]:
    """Brings flow to another grid; its values are pixels of the grid it is stored on.

    Channels are (u, v) once or once per gap. u is scaled by width / w and v by height / h.
    """
    *batch, h, w, c = flow.shape
    fields = flow.reshape(-1, h, w, c)
    resized = np.empty((len(fields), height, width, c), np.float32)
    for index, field in enumerate(fields):
        resized[index] = resize_image(field, height, width)
    resized *= np.tile(np.array([width / w, height / h], np.float32), c // 2)
    return resized.reshape(*batch, height, width, c)

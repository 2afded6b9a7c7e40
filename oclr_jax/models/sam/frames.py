"""Frames and masks to the square image of Segment Anything, and its answers back to the frame."""

import cv2
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8
from PIL import Image

from oclr_jax.models.sam.config import SAMConfig
from oclr_jax.video.resize import resize_image

# Of RGB in 0..255, as the published model was trained.
IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)
# Probabilities of a mask prompt are kept this far from 0 and 1, the precision of stored masks.
LEAST_PROBABILITY = 1 / 512


def resized_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The frame's height and width when its longer side fills the square image."""
    longest = max(height, width)
    return tuple(int(length * side / longest + 0.5) for length in (height, width))


def square_image(frame: UInt8[np.ndarray, "h w 3"], side: int) -> Float32[np.ndarray, "s s 3"]:
    """The model's image of an RGB frame: resized as published, normalised, then filled with zeros.

    The published program resizes with Pillow, which averages where it shrinks and rounds to whole
    grey levels.
    """
    height, width = resized_size(*frame.shape[:2], side)
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
    square = np.zeros((side, side, 3), np.float32)
    mean, std = np.array(IMAGE_MEAN, np.float32), np.array(IMAGE_STD, np.float32)
    square[:height, :width] = (np.asarray(resized, np.float32) - mean) / std
    return square


def square_points(
    points: Float[np.ndarray, "*n 2"], height: int, width: int, side: int
) -> Float[np.ndarray, "*n 2"]:
    """Points (x, y) in pixels of a frame as points of the square image."""
    new_height, new_width = resized_size(height, width, side)
    return points * np.array([new_width / width, new_height / height], points.dtype)


def mask_logits(
    probability: Float32[np.ndarray, "h w"], height: int, width: int, config: SAMConfig
) -> Float32[np.ndarray, "s s"]:
    """The mask prompt of a soft mask: its log-odds, on the square image at a quarter of its size.

    Args:
      probability: at any resolution, of a frame of `height` x `width`.
    """
    height, width = resized_size(height, width, config.side)
    square = np.zeros((config.side, config.side), np.float32)
    square[:height, :width] = resize_image(probability, height, width)
    small = resize_image(square, config.mask_side, config.mask_side)
    small = np.clip(small, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.log(small / (1 - small))


def grid_points(mask: Bool[np.ndarray, "h w"], count: int) -> Float32[np.ndarray, "n 2"]:
    """Pixels (x, y) of a mask at the corners of the widest regular grid that has `count` inside.

    The grid fills the box around the mask. Of more corners than that, those deepest inside the
    mask are taken. A mask of fewer pixels gives each more than once.

    Raises:
      ValueError: the mask is empty.
    """
    rows, columns = np.nonzero(mask)
    if not rows.size:
        raise ValueError("an empty mask has no points")
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    spacing = np.sqrt(rows.size / count)
    y, x = rows, columns
    while spacing >= 1:
        down, across = (max(1, round(length / spacing)) for length in (height, width))
        y, x = np.meshgrid(
            (top + (np.arange(down) + 0.5) * height / down).astype(int),
            (left + (np.arange(across) + 0.5) * width / across).astype(int),
            indexing="ij",
        )
        inside = mask[y, x]
        y, x = y[inside], x[inside]
        if y.size >= count:
            break
        y, x = rows, columns
        spacing *= 0.95
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = np.sort(np.argsort(-depth[y, x], kind="stable")[:count])
    chosen = np.resize(deepest, count)
    return np.stack([x[chosen], y[chosen]], axis=-1).astype(np.float32)


def frame_logits(
    logits: Float[Array, "*n s s"], height: int, width: int, side: int
) -> Float[Array, "*n h w"]:
    """Predicted masks at the size of the frame, as published: by way of the square image."""
    many = logits.shape[:-2]

    def resize(x, *size):
        return jax.image.resize(x, (*many, *size), "linear", antialias=False)

    new_height, new_width = resized_size(height, width, side)
    square = resize(logits, side, side)[..., :new_height, :new_width]
    return resize(square, height, width)

"""A picture of the best and worst masks of every object, as a selector judges them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from oclr_jax.show.grid import picture_grid
from oclr_jax.show.overlay import paint_ids

_GAP = 4  # white pixels between pictures


class SheetColumn(NamedTuple):
    """One frame, a mask in it, and the probability that each pixel of the mask is wrong."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    wrong: Float[np.ndarray, "h w"]


def selection_sheet(
    objects: Sequence[tuple[int, Sequence[SheetColumn]]],
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws two rows per object, best mask first: masks, and where they look wrong (red).

    Args:
      objects: id and columns of every object; all pictures have one size.
    """
    rows, titles = [], []
    for id, columns in objects:
        rows.append([paint_ids(c.image, c.mask * np.uint8(id)) for c in columns])
        rows.append([_paint_wrong(c.image, c.wrong) for c in columns])
        titles += [f"object {id}", "errors"]
    return picture_grid(rows, _GAP, row_titles=titles)


def _paint_wrong(
    image: UInt8[np.ndarray, "h w 3"], wrong: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame in grey, red where the mask looks wrong."""
    grey = image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    painted = grey * (1 - wrong[..., None]) + np.array([255.0, 0, 0]) * wrong[..., None]
    return painted.round().astype(np.uint8)

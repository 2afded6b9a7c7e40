"""A grid of pictures with optional titles: contact sheets, validation strips, sequence strips."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

_HEADER = 22  # pixels above the first row, for column titles
_MARGIN = 92  # pixels left of the first column, for row titles
_LINE = 18  # pixels between the lines of a row title
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (40, 40, 40)


def picture_grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "h w 3"]]],
    gap: int = 0,
    column_titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
) -> UInt8[np.ndarray, "H W 3"]:
    """Lays out RGB pictures of one size on white, row by row.

    Args:
      rows: the pictures. A row may be shorter than the first one.
      gap: white pixels right of and below each picture.
      column_titles: one per column, written above the first row.
      row_titles: one per row, written to its left. May contain line breaks.
    """
    height, width, _ = rows[0][0].shape
    top = _HEADER if column_titles else 0
    left = _MARGIN if row_titles else 0
    size = top + len(rows) * (height + gap), left + len(rows[0]) * (width + gap)
    grid = np.full((*size, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        y = top + i * (height + gap)
        for j, picture in enumerate(row):
            x = left + j * (width + gap)
            grid[y : y + height, x : x + width] = picture
    for j, title in enumerate(column_titles):
        _write(grid, title, left + j * (width + gap), top - 7)
    for i, title in enumerate(row_titles):
        for line, text in enumerate(title.splitlines()):
            _write(grid, text, 8, top + i * (height + gap) + height // 2 + line * _LINE)
    return grid


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """At most `wanted` distinct indices below `count`, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def _write(image: UInt8[np.ndarray, "h w 3"], text: str, x: int, y: int) -> None:
    cv2.putText(image, text, (x, y), _FONT, 0.42, _INK, 1, cv2.LINE_AA)

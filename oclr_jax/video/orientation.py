"""Turning and mirroring pictures as their files ask for."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Shaped

# Exif orientation 1 to 8: (transpose first, then flip left-right, then flip up-down).
_EXIF = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class Orientation:
    """A transposition, then a flip left-right, then a flip up-down; each may be absent."""

    transpose: bool = False
    mirror: bool = False
    flip: bool = False

    def apply(self, image: Shaped[np.ndarray, "h w *c"]) -> Shaped[np.ndarray, "H W *c"]:
        """The picture as it is to be seen, contiguous in memory."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        if self.mirror:
            image = image[:, ::-1]
        if self.flip:
            image = image[::-1]
        return np.ascontiguousarray(image)


def exif_orientation(code: int) -> Orientation:
    """The orientation of Exif tag 0x0112; values outside 1..8 mean none."""
    return Orientation(*_EXIF.get(code, _EXIF[1]))


def matrix_orientation(matrix: Int32[np.ndarray, "3 3"]) -> Orientation:
    """The orientation nearest to a display matrix of ISO/IEC 14496-12 (8.3.2).

    A point (x, y), y down, moves to (a x + c y, b x + d y) with rows (a, b, .), (c, d, .); scale
    and translation are ignored.
    """
    (a, b), (c, d) = matrix[:2, :2].astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, bool(a < 0), bool(d < 0))
    return Orientation(True, bool(c < 0), bool(b < 0))

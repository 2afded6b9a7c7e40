"""Finding frames that only repeat an earlier one, as 24 frames/s stored as 30 have them.

Optical flow to a repeat is zero although the object moves, so flow is estimated and objects are
found without the repeats, which then take the masks of the frame that they repeat.
"""

from statistics import median

import cv2
import numpy as np
from jaxtyping import UInt8

# The change from one frame to another is the largest difference, in grey levels, of their means
# over one cell of a grid of 28 x 16. A repeat changes by at most this ...
_MOST_CHANGE = 15.0
# ... and by at most this share of what the frames around it change, so that slow motion is not
# taken for repeats. On DAVIS at 24 in 30 frames/s, encoded by x264 (CRF 18 to 30), MPEG-4 and VP9,
# the share is at most 0.15 for repeats and at least 0.72 for others; at CRF 36 it reaches 0.27.
# With a fixed camera, a hand that pauses has 0.28.
_MOST_SHARE = 0.2
_AROUND = 4  # frames before and after that are compared


class RepeatFinder:
    """Finds the repeats of a video whose frames are added one by one."""

    def __init__(self):
        self._original: UInt8[np.ndarray, "h w 3"] | None = None
        self._number = 0  # of the frame that later ones are compared with
        # Of each frame: the number of the frame it was compared with, and the change from it.
        self._changes: list[tuple[int, float]] = []

    def add(self, thumbnail: UInt8[np.ndarray, "h w 3"]) -> None:
        """Adds the next frame, reduced by `shots.thumbnail`."""
        change = np.inf if self._original is None else _change(self._original, thumbnail)
        self._changes.append((self._number, change))
        if change > _MOST_CHANGE:
            self._original, self._number = thumbnail, len(self._changes) - 1

    def originals(self) -> list[int]:
        """For each frame the number of the frame that it repeats; its own if it repeats none."""
        moving = [
            (frame, change)
            for frame, (_, change) in enumerate(self._changes)
            if _MOST_CHANGE < change < np.inf
        ]
        found, passed = [], 0
        for frame, (original, change) in enumerate(self._changes):
            while passed < len(moving) and moving[passed][0] < frame:
                passed += 1
            around = moving[max(passed - _AROUND, 0) : passed + _AROUND]
            usual = median(change for _, change in around) if around else 0.0
            repeats = change <= min(_MOST_CHANGE, _MOST_SHARE * usual)
            found.append(original if repeats else frame)
        return found


def _change(first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]) -> float:
    difference = cv2.absdiff(first, second).max(axis=2).astype(np.float32)
    return float(cv2.resize(difference, (28, 16), interpolation=cv2.INTER_AREA).max())

"""Finding frames that only repeat an earlier one, as 24 frames/s stored as 30 have them.

Optical flow to a repeat is zero although the object moves, so flow is estimated and objects are
found without the repeats, which then take the masks of the frame that they repeat.
"""

from statistics import median

import cv2
import numpy as np
from jaxtyping import UInt8

# Largest difference, in grey levels, of two pictures' means over one 28th x 16th of the frame. On
# DAVIS at 24 in 30 frames/s, encoded by x264 (CRF 18 to 23), MPEG-4 and VP9, repeats have at most
# 4.5 and other frames at least 31; between frames of still scenes by a fixed camera it is 6.
_MOST_CHANGE = 5.0
# A repeat changes that much less than the frames around it, so that slow motion is not taken for
# repeats.
_MOST_SHARE = 0.15
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

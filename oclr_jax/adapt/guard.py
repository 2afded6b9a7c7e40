"""Whether adapted weights are kept: how steady their masks are on frames left out of training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from oclr_jax.adapt.labels import Steadiness

# On the left-out frames of all videos the foreground may shrink and grow by these factors.
AREA_BOUNDS = (0.5, 2.0)
# And in one video by the squares of them; the agreement of a video may fall by at most this.
WORST_FALL = 0.1


class Verdict(NamedTuple):
    """The comparison of adapted with unadapted weights on left-out frames."""

    kept: bool
    reason: str  # a sentence for the user
    before: float  # agreement of the masks with those of neighbouring frames, mean over videos
    after: float


def score(measured: Sequence[Steadiness], held: Sequence[Bool[np.ndarray, " t"]]) -> float:
    """Mean agreement on the left-out frames, over the videos."""
    pairs = zip(measured, held, strict=True)
    return float(np.mean([_mean(one.agreement, frames) for one, frames in pairs]))


def judge(
    names: Sequence[str],
    before: Sequence[Steadiness],
    after: Sequence[Steadiness],
    held: Sequence[Bool[np.ndarray, " t"]],
) -> Verdict:
    """Compares adapted with unadapted weights.

    The adapted ones are kept if their masks agree at least as well with those of the neighbouring
    frames, in the mean over the videos and nearly in each, and cover about as much.

    Args:
      names: of the videos.
      before, after: of each video, without and with adaptation.
      held: its left-out frames.
    """
    scores = score(before, held), score(after, held)
    areas = [
        (_mean(one.area, frames), _mean(other.area, frames))
        for one, other, frames in zip(before, after, held, strict=True)
    ]
    low, high = AREA_BOUNDS
    ratio = _ratio(sum(a for a, _ in areas), sum(b for _, b in areas))
    if not low <= ratio <= high:
        return Verdict(False, f"the masks cover {ratio:.2f} times as much as before", *scores)
    for name, (one, other) in zip(names, areas, strict=True):
        if not low**2 <= _ratio(one, other) <= high**2:
            text = f"the masks of {name} cover {_ratio(one, other):.2f} times as much as before"
            return Verdict(False, text, *scores)
    for name, one, other, frames in zip(names, before, after, held, strict=True):
        fall = _mean(one.agreement, frames) - _mean(other.agreement, frames)
        if fall > WORST_FALL:
            text = f"the masks of {name} agree less with their neighbours ({-fall:+.3f})"
            return Verdict(False, text, *scores)
    change = f"agreement with neighbouring frames {scores[0]:.3f} before, {scores[1]:.3f} after"
    if scores[1] < scores[0]:
        return Verdict(False, f"the masks are less steady: {change}", *scores)
    return Verdict(True, f"the masks are steadier: {change}", *scores)


def _mean(values: np.ndarray, frames: Bool[np.ndarray, " t"]) -> float:
    return float(values[frames].mean()) if frames.any() else 0.0


def _ratio(before: float, after: float) -> float:
    least = 1e-4  # of the grid: nothing
    return (after + least) / (before + least)

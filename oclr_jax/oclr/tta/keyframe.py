"""Which frames have masks that appearance confirms, and where propagation starts (supplement C).

The flow model's masks of each frame are compared with those that propagation predicts from the
frames before it. The published program, which this follows, differs from the paper: the key frame
is the middle of the longest run of consistent frames, not the frame with the lowest error.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Array, Float, Float32

from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.oclr.tta.propagation import Propagator

Masks = Float32[np.ndarray, "h w k"]


def check_frames(
    features: Iterable[Float[Array, "h w c"]], masks: Iterable[Masks], config: TTAConfig
) -> Iterator[tuple[Masks, Masks]]:
    """Yields, for each frame after the first, the propagated masks and those it was given."""
    propagator = None
    for here, given in zip(features, masks, strict=True):
        if propagator is None:
            propagator = Propagator(here, given, config, config.check_previous)
            continue
        yield propagator.predict(here), given
        propagator.remember(here, given)


def consistency_error(propagated: Masks, given: Masks) -> float:
    """Mean absolute difference of the objects' masks, relative to their area.

    (sum |propagated - given| / K) / ((sum propagated + sum given) / 2) over all K objects, those
    that are absent included. NaN if there is no object in either.
    """
    propagated, given = propagated[..., 1:], given[..., 1:]
    area = (propagated.sum() + given.sum()) / 2
    difference = np.abs(propagated - given).sum() / propagated.shape[-1]
    return float(difference / area) if area > 0 else np.nan


def object_errors(propagated: Masks, given: Masks) -> Float32[np.ndarray, " objects"]:
    """The same error for each object; NaN for those in neither mask."""
    propagated, given = propagated[..., 1:], given[..., 1:]
    area = (propagated + given).sum((0, 1)) / 2
    difference = np.abs(propagated - given).sum((0, 1))
    return np.where(area > 0, difference / np.where(area > 0, area, 1), np.nan).astype(np.float32)


def consistent(errors: Sequence[float]) -> list[bool]:
    """Which errors are below their mean; NaN is not, and does not count in the mean."""
    known = [error for error in errors if not np.isnan(error)]
    mean = np.mean(known) if known else np.nan
    return [bool(error < mean) for error in errors]


def longest_run(good: Sequence[bool]) -> tuple[int, int] | None:
    """First and last index of the longest run of true values, the first of equal length.

    None if all are false.
    """
    best, start = None, None
    for index, value in enumerate([*good, False]):
        if value and start is None:
            start = index
        elif not value and start is not None:
            if best is None or index - start > best[1] - best[0] + 1:
                best = (start, index - 1)
            start = None
    return best


def key_frame(errors: Sequence[float]) -> int | None:
    """Where propagation starts.

    Args:
      errors: of the frames from the second one on.

    Returns:
      the number of the frame in the middle of the longest run of consistent frames. Without a run,
      as in a shot of two frames, the frame with the lowest error. None if no error is known.
    """
    run = longest_run(consistent(errors))
    if run is not None:
        return (run[0] + run[1]) // 2 + 1
    if np.isnan(errors).all():
        return None
    return int(np.nanargmin(errors)) + 1


def select_frames(errors: Sequence[float], count: int) -> list[int]:
    """The propagation-based selection of the second paper (table 3): frames with low errors.

    Args:
      errors: of one object in the frames from the second one on, see `object_errors`.
      count: how many frames; fewer where the errors of fewer are known.

    Returns:
      their numbers, ascending.
    """
    known = [index for index in np.argsort(errors, kind="stable") if not np.isnan(errors[index])]
    return sorted(int(index) + 1 for index in known[:count])

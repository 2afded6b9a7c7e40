"""When each frame of a video is shown, from time stamps that may be missing or wrong."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

# A step back in time of more than this many frame intervals is a restart of the clock (joined
# recordings); a smaller one is a single wrong stamp.
_RESTART = 10


def even_times(count: int, rate: Fraction) -> list[Fraction]:
    """The time of each of `count` frames at a constant rate, in seconds from the first."""
    return [index / rate for index in range(count)]


def frame_times(
    stamps: Sequence[Fraction | None], rate: Fraction, tick: Fraction
) -> tuple[list[Fraction], Fraction]:
    """The time of every frame in seconds from the first, strictly increasing, and the mean rate.

    Args:
      stamps: what the file says for each frame in seconds, None where it says nothing.
      rate: frames per second that the file's header announces.
      tick: the unit of the stamps in seconds. Stamps that fit `rate` up to one tick, and less than
        one frame, are taken for those of a constant rate, rounded.

    The rate is (n - 1) / (last - first). Without stamps both follow from `rate`.
    """
    count = len(stamps)
    even = even_times(count, rate)
    if count < 2 or None in stamps or len(set(stamps)) < 2:
        return even, rate
    times = _increasing([stamp - stamps[0] for stamp in stamps])
    # In avi one tick is one frame, and a stamp that is one tick late follows a dropped frame.
    rounding = min(tick, 1 / (2 * rate))
    if all(abs(time - other) <= rounding for time, other in zip(times, even, strict=True)):
        return even, rate
    return times, (count - 1) / times[-1]


def _increasing(stamps: list[Fraction]) -> list[Fraction]:
    """Replaces stamps that are not later than the one before; the first stays."""
    steps = [after - before for before, after in pairwise(stamps) if after > before]
    step = median_low(steps) if steps else Fraction(1)
    times, shift = [stamps[0]], Fraction(0)
    for index, stamp in enumerate(stamps[1:], start=1):
        if stamp + shift > times[-1]:
            times.append(stamp + shift)
            continue
        if times[-1] - (stamp + shift) > _RESTART * step:
            shift = times[-1] + step - stamp
            times.append(stamp + shift)
            continue
        # Halfway to the next stamp that is later, so that this one delays none of the others.
        later = (other + shift for other in stamps[index + 1 :] if other + shift > times[-1])
        ahead = next(later, None)
        times.append(times[-1] + step if ahead is None else (times[-1] + ahead) / 2)
    return times

"""Flow of every frame of a clip at the wanted gaps, the clip's ends filled."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.flow.estimator import PairEstimator


def neighbour(index: int, gap: int, count: int) -> tuple[int, int]:
    """The frame to which flow is taken from frame `index` of `count` at `gap`, and the flow's sign.

    Where frame index + gap does not exist, the other gap's flow of the same frame is negated: the
    answer is (index - gap, -1). Raises UserError where neither exists, in a clip that is too short.
    """
    if 0 <= index + gap < count:
        return index + gap, 1
    if 0 <= index - gap < count:
        return index - gap, -1
    raise UserError(
        f"Flow at gap {gap} needs at least {2 * abs(gap)} frames, and there are {count}; use a "
        "longer video or a smaller gap."
    )


def stream_gap_flows(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    gaps: Sequence[int],
    estimator: PairEstimator,
) -> Iterator[Float32[np.ndarray, "H W c"]]:
    """Yields each frame's flow at all gaps, holding only 2 max|gap| + 1 frames.

    Frame i is yielded once frame i + max|gap| was read or the frames have ended. Channels are
    (u, v) per gap in the order of `gaps`, so c = 2 len(gaps). Each pair is estimated once. Frames
    that have the estimator's working size save it the resizing, once for each pair.
    """
    reach = max(abs(gap) for gap in gaps)
    held: dict[int, np.ndarray] = {}
    read = done = 0
    for frame in frames:
        held[read] = frame
        read += 1
        if read - done > reach:
            # All frames ahead within reach exist, so how many follow them makes no difference.
            yield _frame_flow(held, done, done + reach + 1, gaps, estimator)
            done += 1
            held.pop(done - reach - 1, None)
    while done < read:
        yield _frame_flow(held, done, read, gaps, estimator)
        done += 1


def gap_flows(
    frames: UInt8[np.ndarray, "t h w 3"],
    gaps: Sequence[int],
    estimator: PairEstimator,
) -> Float32[np.ndarray, "t H W c"]:
    """Flow of a whole clip at all gaps; see `stream_gap_flows`, whose values these are."""
    return np.stack(list(stream_gap_flows(frames, gaps, estimator)))


def _frame_flow(
    held: dict[int, np.ndarray],
    index: int,
    count: int,
    gaps: Sequence[int],
    estimator: PairEstimator,
) -> Float32[np.ndarray, "H W c"]:
    wanted = [neighbour(index, gap, count) for gap in gaps]
    targets = sorted({target for target, _ in wanted})
    first = np.stack([held[index]] * len(targets))
    flows = estimator(first, np.stack([held[target] for target in targets]))
    by_target = dict(zip(targets, flows, strict=True))
    return np.concatenate([sign * by_target[target] for target, sign in wanted], axis=-1)

"""Flow of every frame of a clip at given gaps; at the clip's ends, from the opposite gap."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.flow.estimator import FlowEstimator, TwoWayEstimator, check_finite, estimate
from oclr_jax.video.resize import resize_image

Pair = tuple[int, int]  # numbers of the first and the second frame
Flows = dict[Pair, Float32[np.ndarray, "H W 2"]]


def neighbour(index: int, gap: int, count: int) -> tuple[int, int]:
    """The target frame of the flow of frame `index` of `count` at `gap`, and the flow's sign.

    Where frame index + gap does not exist, the opposite gap's flow of the same frame is negated:
    the result is (index - gap, -1).

    Raises:
      UserError: neither frame exists, because the clip is too short.
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
    estimator: FlowEstimator,
    batch: int | None = None,
) -> Iterator[Float32[np.ndarray, "H W c"]]:
    """Yields the flow of each frame at all gaps, on the estimator's working grid.

    Channels are (u, v) per gap in the order of `gaps`, so c = 2 len(gaps). The flow of `batch`
    frames (by default the estimator's own) is requested in one call, so that only
    2 max|gap| + batch frames are held: frame i is yielded at the latest once frame
    i + max|gap| + batch - 1 was read or the frames have ended. Each frame is resized once and each
    pair estimated once.

    Raises:
      UserError: there are too few frames for the gaps.
    """
    batch = batch or estimator.batch
    reach = max(abs(gap) for gap in gaps)
    held: dict[int, np.ndarray] = {}
    known: Flows = {}
    read = done = 0
    for frame in frames:
        held[read] = resize_image(frame, *estimator.working_size(*frame.shape[:2]))
        read += 1
        if read - done >= reach + batch:
            # All later frames within reach exist, so the number of frames does not matter yet.
            yield from _frame_flows(held, range(done, done + batch), read, gaps, estimator, known)
            done += batch
            for index in range(done - batch - reach, done - reach):
                held.pop(index, None)
            for pair in [pair for pair in known if min(pair) < done - reach]:
                del known[pair]
    while done < read:
        indices = range(done, min(done + batch, read))
        yield from _frame_flows(held, indices, read, gaps, estimator, known)
        done = indices.stop


def gap_flows(
    frames: UInt8[np.ndarray, "t h w 3"],
    gaps: Sequence[int],
    estimator: FlowEstimator,
) -> Float32[np.ndarray, "t H W c"]:
    """Flow of a whole clip at all gaps, in one call of the estimator; see `stream_gap_flows`."""
    return np.stack(list(stream_gap_flows(frames, gaps, estimator, batch=len(frames))))


def take_gaps(
    flow: Float32[np.ndarray, "*b h w c"], stored: Sequence[int], wanted: Sequence[int]
) -> Float32[np.ndarray, "*b h w C"]:
    """The channels of the wanted gaps, from flow that is stored at other ones.

    Raises:
      UserError: a wanted gap is not stored.
    """
    missing = sorted(set(wanted) - set(stored))
    if missing:
        raise UserError(
            f"The model needs flow at gap {missing[0]}, and the dataset holds flow at "
            f"{' and '.join(map(str, stored))}; give --flow, or use other weights."
        )
    starts = [2 * list(stored).index(gap) for gap in wanted]
    return flow[..., [start + axis for start in starts for axis in (0, 1)]]


def _frame_flows(
    held: dict[int, np.ndarray],
    indices: range,
    count: int,
    gaps: Sequence[int],
    estimator: FlowEstimator,
    known: Flows,
) -> Iterator[Float32[np.ndarray, "H W c"]]:
    wanted = {index: [neighbour(index, gap, count) for gap in gaps] for index in indices}
    pairs = sorted({(index, target) for index in indices for target, _ in wanted[index]})
    by_pair = _pair_flows(held, pairs, estimator, known)
    for index in indices:
        flows = [sign * by_pair[index, target] for target, sign in wanted[index]]
        yield np.concatenate(flows, axis=-1)


def _pair_flows(
    held: dict[int, np.ndarray], pairs: list[Pair], estimator: FlowEstimator, known: Flows
) -> Flows:
    """The flow of each pair. `known` gets what a `TwoWayEstimator` found in one direction."""

    def frames(pairs):
        return (np.stack([held[frame] for frame in side]) for side in zip(*pairs, strict=True))

    if not isinstance(estimator, TwoWayEstimator):
        return dict(zip(pairs, estimate(estimator, *frames(pairs)), strict=True))
    missing = sorted({*pairs, *(pair[::-1] for pair in pairs)} - known.keys())
    if missing:
        known.update(zip(missing, estimator.one_way(*frames(missing)), strict=True))
    flow, backward = np.stack([known[p] for p in pairs]), np.stack([known[p[::-1]] for p in pairs])
    combined = check_finite(estimator, estimator.combine(flow, backward, *frames(pairs)))
    return dict(zip(pairs, combined, strict=True))

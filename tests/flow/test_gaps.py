import itertools

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.flow import gap_flows, stream_gap_flows
from oclr_jax.flow.gaps import neighbour


def labels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """An estimator whose flow says which frames it was given: (index of first, of second)."""
    pair = np.stack([first[:, 0, 0, 0], second[:, 0, 0, 0]], axis=-1)
    return np.broadcast_to(pair[:, None, None], (len(first), 2, 3, 2)).astype(np.float32)


def clip(count: int) -> np.ndarray:
    return np.full((count, 4, 6, 3), np.arange(count)[:, None, None, None], np.uint8)


def flow_labels(count: int, gaps: tuple[int, ...]) -> np.ndarray:
    return gap_flows(clip(count), gaps, labels)[:, 0, 0].reshape(count, len(gaps), 2)


def test_gap_one_in_both_directions():
    np.testing.assert_array_equal(
        flow_labels(4, (1, -1)),
        [
            [[0, 1], [-0, -1]],  # the start has no frame before it: the other flow, negated
            [[1, 2], [1, 0]],
            [[2, 3], [2, 1]],
            [[-3, -2], [3, 2]],  # the end has none after it
        ],
    )


def test_two_frames_are_enough_for_gap_one():
    np.testing.assert_array_equal(flow_labels(2, (1, -1)), [[[0, 1], [0, -1]], [[-1, -0], [1, 0]]])


@pytest.mark.parametrize("gaps", [(1, -1), (3, -3), (1, -1, 3), (-2,), (2, 1)])
@pytest.mark.parametrize("count", [6, 7, 11])
def test_every_frame_has_flow_to_its_neighbour(gaps, count):
    found = flow_labels(count, gaps)
    for index, (place, gap) in itertools.product(range(count), enumerate(gaps)):
        target, sign = neighbour(index, gap, count)
        assert (target - index) * sign == gap
        np.testing.assert_array_equal(found[index, place], [sign * index, sign * target])


@pytest.mark.parametrize(("count", "gap"), [(1, 1), (3, 2), (5, -3)])
def test_too_short_a_clip_is_refused(count, gap):
    with pytest.raises(UserError, match=f"at least {2 * abs(gap)} frames"):
        gap_flows(clip(count), (gap,), labels)


def test_the_stream_runs_no_further_ahead_than_the_gap():
    read = []

    def frames():
        for index, frame in enumerate(clip(10)):
            read.append(index)
            yield frame

    stream = stream_gap_flows(frames(), (2, -1), labels)
    for index in range(8):
        next(stream)
        assert read[-1] == index + 2


@pytest.mark.parametrize("batch", [2, 3, 20])
@pytest.mark.parametrize("gaps", [(1, -1), (2, -1), (-2,)])
def test_asking_for_several_frames_at_once_changes_nothing(batch, gaps):
    calls = []

    def counting(first, second):
        calls.append(len(first))
        return labels(first, second)

    found = list(stream_gap_flows(clip(10), gaps, counting, batch))
    np.testing.assert_array_equal(found, list(stream_gap_flows(clip(10), gaps, labels)))
    assert len(calls) == -(-10 // batch)


def test_each_pair_is_estimated_once():
    pairs = []

    def counting(first, second):
        pairs.extend(zip(first[:, 0, 0, 0].tolist(), second[:, 0, 0, 0].tolist(), strict=True))
        return labels(first, second)

    gap_flows(clip(6), (1, -1), counting)
    assert len(pairs) == len(set(pairs)) == 10

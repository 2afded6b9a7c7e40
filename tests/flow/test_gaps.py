import itertools

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.flow import gap_flows, stream_gap_flows
from oclr_jax.flow.gaps import neighbour, take_gaps


class Labels:
    """An estimator whose flow is (index of first, index of second); it records its calls."""

    def __init__(self, batch: int = 1):
        self.batch = batch
        self.calls: list[list[tuple[int, int]]] = []

    def __call__(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        assert first.shape[1:3] == second.shape[1:3] == (2, 3)
        pair = np.stack([first[:, 0, 0, 0], second[:, 0, 0, 0]], axis=-1)
        self.calls.append([tuple(numbers) for numbers in pair.tolist()])
        return np.broadcast_to(pair[:, None, None], (len(first), 2, 3, 2)).astype(np.float32)

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        return height // 2, width // 2

    def settings(self) -> dict:
        return {}


def clip(count: int) -> np.ndarray:
    return np.full((count, 4, 6, 3), np.arange(count)[:, None, None, None], np.uint8)


def flow_labels(count: int, gaps: tuple[int, ...]) -> np.ndarray:
    return gap_flows(clip(count), gaps, Labels())[:, 0, 0].reshape(count, len(gaps), 2)


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
        gap_flows(clip(count), (gap,), Labels())


def test_the_stream_runs_no_further_ahead_than_the_gap():
    read = []

    def frames():
        for index, frame in enumerate(clip(10)):
            read.append(index)
            yield frame

    stream = stream_gap_flows(frames(), (2, -1), Labels())
    for index in range(8):
        next(stream)
        assert read[-1] == index + 2


@pytest.mark.parametrize("batch", [2, 3, 20])
@pytest.mark.parametrize("gaps", [(1, -1), (2, -1), (-2,)])
def test_asking_for_several_frames_at_once_changes_nothing(batch, gaps):
    estimator = Labels(batch)
    found = list(stream_gap_flows(clip(10), gaps, estimator))
    np.testing.assert_array_equal(found, list(stream_gap_flows(clip(10), gaps, Labels())))
    assert len(estimator.calls) == -(-10 // batch)


def test_each_pair_is_estimated_once():
    estimator = Labels()
    gap_flows(clip(6), (1, -1), estimator)
    (pairs,) = estimator.calls
    assert len(pairs) == len(set(pairs)) == 10


def test_gaps_are_taken_from_stored_flow_by_number():
    flow = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4)
    for wanted, channels in (((1, -1), [0, 1, 2, 3]), ((-1,), [2, 3]), ((-1, 1), [2, 3, 0, 1])):
        np.testing.assert_array_equal(take_gaps(flow, (1, -1), wanted), flow[..., channels])
    with pytest.raises(UserError, match="needs flow at gap 2, and the dataset holds flow at 1 and"):
        take_gaps(flow, (1, -1), (1, 2))

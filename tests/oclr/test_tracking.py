"""Objects keep their ids and depth over windows, shots and the whole video."""

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oclr_jax.oclr.depth import depth_order
from oclr_jax.oclr.strands import WindowLayers
from oclr_jax.oclr.tracking import MAX_OBJECTS, link_windows
from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import Track

H, W, T = 24, 40, 4


def box(x: int, y: int, size: int = 8) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[max(y, 0) : max(y + size, 0), max(x, 0) : max(x + size, 0)] = True
    return mask


NOTHING = np.zeros((H, W), bool)


def window(
    start: int,
    layers: Sequence[Sequence[np.ndarray]],
    order: Sequence[float] | None = None,
    shot: int = 0,
    sure: float = 0.9,
) -> WindowLayers:
    """A window from each layer's mask per frame."""
    masks = np.moveaxis(np.array(layers), 0, -1)
    probability = np.where(masks, sure, 0.05).astype(np.float32)
    images = np.zeros((*masks.shape[:3], 3), np.uint8)
    order = np.array(order or range(len(layers)), float)
    return WindowLayers(shot, start, probability, order, images)


def right(start: int) -> list[np.ndarray]:
    """A square that goes right, seen from frame `start` on."""
    return [box(2 + start + i, 2) for i in range(T)]


def down(start: int) -> list[np.ndarray]:
    """A square that goes down elsewhere."""
    return [box(28, 1 + start + i) for i in range(T)]


def check(track: Track, frames: Sequence[int], mask_of) -> None:
    assert list(track.amodal) == list(frames)
    for frame in frames:
        assert np.array_equal(track.amodal[frame].decode(), mask_of(frame)), frame


def test_ids_are_carried_where_layers_swap_between_windows():
    windows = [
        window(0, [right(0), down(0)]),
        window(2, [down(2), right(2)], order=[1, 0]),
        window(4, [right(4), down(4)]),
    ]
    first, second = link_windows(windows)
    assert (first.id, second.id) == (1, 2)
    assert (first.rank, second.rank) == (0, 1)
    check(first, range(8), lambda frame: box(2 + frame, 2))
    check(second, range(8), lambda frame: box(28, 1 + frame))


def test_a_shared_frame_comes_from_the_window_that_sees_further_around_it():
    early = [box(2, 2), box(2, 2), box(3, 2), box(3, 2)]
    late = [box(2, 3), box(2, 3), box(2, 3), box(2, 3)]
    (track,) = link_windows([window(0, [early]), window(2, [late])])
    used = [track.amodal[frame].decode() for frame in range(6)]
    expected = [early[0], early[1], early[2], late[1], late[2], late[3]]
    assert all(np.array_equal(a, b) for a, b in zip(used, expected, strict=True))


def test_an_object_that_goes_and_one_that_comes():
    gone = [box(2, 2), box(3, 2), NOTHING, NOTHING]
    come = [NOTHING, NOTHING, box(20, 10), box(21, 10)]
    first, second = link_windows([window(0, [gone]), window(2, [come])])
    check(first, [0, 1], lambda frame: box(2 + frame, 2))
    check(second, [4, 5], lambda frame: box(16 + frame, 10))
    assert (first.id, second.id) == (1, 2)


def test_a_layer_that_agrees_badly_is_another_object():
    away = [box(20, 12)] * T
    tracks = link_windows([window(0, [[box(2, 2)] * T]), window(2, [away])])
    assert [sorted(track.amodal) for track in tracks] == [[0, 1, 2], [3, 4, 5]]


def test_a_layer_that_another_hides_does_not_take_its_place():
    """In both windows two layers found one object; by amodal masks alone they would swap."""
    front, hidden, later, around = (box(2, 2, size) for size in (10, 9, 8, 12))
    windows = [window(0, [[front] * T, [hidden] * T]), window(2, [[later] * T, [around] * T])]
    first, second = link_windows(windows)
    check(first, range(6), lambda frame: front if frame < 3 else later)
    check(second, range(6), lambda frame: hidden if frame < 3 else around)


def test_a_cut_starts_new_ids():
    same = [box(4, 4)] * T
    tracks = link_windows([window(0, [same]), window(4, [same], shot=1)])
    assert [(track.id, track.shot, sorted(track.amodal)) for track in tracks] == [
        (1, 0, [0, 1, 2, 3]),
        (2, 1, [4, 5, 6, 7]),
    ]


def test_last_window_moved_back():
    """The last window shares more frames than the others."""
    windows = [window(0, [right(0)]), window(3, [right(3)]), window(4, [right(4)])]
    (track,) = link_windows(windows)
    check(track, range(8), lambda frame: box(2 + frame, 2))


def test_depth_is_that_of_most_windows_and_the_same_in_all():
    a, b = [box(4, 4)] * T, [box(8, 6)] * T
    windows = [
        window(0, [a, b], order=[0.0, 3.0]),
        window(2, [a, b], order=[0.5, 0.0]),
        window(4, [a, b], order=[0.0, 3.0]),
    ]
    first, second = link_windows(windows)
    assert (first.rank, second.rank) == (0, 1)
    first, second = link_windows([window(0, [a, b], order=[2.0, -1.0])])
    assert (first.rank, second.rank) == (1, 0)
    swapped = [window(0, [a, b], order=[0.0, 0.1]), window(2, [b, a], order=[0.0, 3.0])]
    first, second = link_windows(swapped)
    assert (first.rank, second.rank) == (1, 0)


def test_what_is_hardly_seen_or_unsure_is_dropped():
    a = [box(4, 4)] * T
    assert len(link_windows([window(0, [a, a])])) == 1, "a copy behind the first is never seen"
    assert link_windows([window(0, [a], sure=0.55)]) == []
    assert link_windows([window(0, [[NOTHING] * T])]) == []
    assert link_windows([]) == []
    big = np.zeros((100, 100), bool)
    dot, spot = big.copy(), big.copy()
    dot[5:8, 5:8], spot[5:9, 5:8] = True, True
    assert link_windows([window(0, [[dot] * T])]) == []
    assert len(link_windows([window(0, [[spot] * T])])) == 1


def test_score_is_the_mean_probability_inside_the_mask():
    probability = np.full((1, H, W, 1), 0.1, np.float32)
    probability[0, 2:6, 2:6, 0] = 0.8
    probability[0, 6:10, 2:6, 0] = 0.6
    images = np.zeros((1, H, W, 3), np.uint8)
    (track,) = link_windows([WindowLayers(0, 0, probability, np.zeros(1), images)])
    assert track.amodal[0].score == pytest.approx(0.7)
    assert track.score == pytest.approx(0.7)


def test_ids_fit_eight_bits_and_the_largest_stay():
    boxes = [box(4, 4, size=6 + (i == 3)) for i in range(MAX_OBJECTS + 5)]
    tracks = link_windows(window(T * i, [[boxes[i]] * T], shot=i) for i in range(len(boxes)))
    assert [track.id for track in tracks] == list(range(1, MAX_OBJECTS + 1))
    assert sorted(track.rank for track in tracks) == list(range(MAX_OBJECTS))
    assert 3 in {track.shot for track in tracks}


def test_windows_are_taken_one_by_one():
    """Linking holds at most two windows: the one at hand and the one before."""
    made, most_alive = [], 0

    def windows():
        nonlocal most_alive
        for i in range(6):
            now = window(2 * i, [[box(2 * i + j, 2) for j in range(T)]])
            made.append(weakref.ref(now.probability))
            most_alive = max(most_alive, sum(held() is not None for held in made))
            yield now

    (track,) = link_windows(windows())
    assert len(track.amodal) == 14 and len(made) == 6
    # This generator itself still holds the window that it gave last.
    assert most_alive <= 3


def test_probabilities_are_those_of_the_masks():
    """Stored of every frame in which the layer was asked for, also where its mask is empty."""
    shared = box(4, 2)
    early, late = [box(2, 2), box(3, 2), shared, NOTHING], [shared, NOTHING, box(6, 2), NOTHING]
    windows = [window(0, [early], sure=0.75), window(2, [late], sure=0.875)]
    (track,) = link_windows(windows, ArrayFile())
    assert list(track.amodal_probability) == list(range(6))
    for frame, stored in track.amodal_probability.items():
        mask = track.amodal[frame].decode() if frame in track.amodal else NOTHING
        sure = 0.75 if frame < 3 else 0.875
        np.testing.assert_allclose(stored.decode(), np.where(mask, sure, 0.05), atol=1 / 512)
    (track,) = link_windows(windows)
    assert not track.amodal_probability


@given(st.permutations(range(6)), st.data())
def test_depth_order_keeps_all_votes_that_agree(front_to_back, data):
    place = {id: i for i, id in enumerate(front_to_back)}
    neighbours = list(zip(front_to_back, front_to_back[1:], strict=False))
    others = [(a, b) for a in range(6) for b in range(a + 1, 6)]
    asked = data.draw(st.lists(st.sampled_from(others), max_size=6))
    votes = {}
    for a, b in [*neighbours, *asked]:
        low, high = sorted((a, b))
        votes[low, high] = 1.0 if place[low] < place[high] else -1.0
    assert depth_order(range(6), votes) == list(front_to_back)


def test_depth_order_of_contradicting_votes_loses_the_weakest():
    votes = {(1, 2): 5.0, (2, 3): 5.0, (1, 3): -1.0}
    assert depth_order([1, 2, 3], votes) == [1, 2, 3]
    assert depth_order([3, 1, 2], {}) == [1, 2, 3]

"""Identity measures on cases small enough to count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oclr_jax.ops.id_metrics import (
    HOTA_THRESHOLDS,
    Overlaps,
    found_shares,
    hota,
    id_switches,
    idf1,
    main_id_shares,
    mask_overlaps,
)


def overlaps(*ids_by_frame: tuple[int, ...], tracks: int = 3) -> Overlaps:
    """Objects that cover their tracks exactly: for each frame the track of each object, -1: none.

    Every track is present in the frames in which an object has it.
    """
    frames, objects = len(ids_by_frame), len(ids_by_frame[0])
    iou = np.zeros((frames, objects, tracks))
    for frame, ids in enumerate(ids_by_frame):
        for number, track in enumerate(ids):
            if track >= 0:
                iou[frame, number, track] = 1.0
    return Overlaps(iou, np.ones((frames, objects), bool), iou.any(1))


def test_overlaps_of_id_maps():
    truth, predicted = np.zeros((2, 4, 6), np.uint8), np.zeros((2, 4, 6), np.uint8)
    truth[0, :, :3], truth[1, :2, :3], truth[1, 2:, :3] = 2, 2, 5
    predicted[0, :, 1:3], predicted[0, :, 3:] = 9, 200
    found = mask_overlaps(truth, predicted)
    assert found.iou.shape == (2, 2, 2)
    assert found.iou[0].tolist() == [[8 / 12, 0.0], [0.0, 0.0]]
    assert not found.iou[1].any()
    assert found.object_present.tolist() == [[True, False], [True, True]]
    assert found.track_present.tolist() == [[True, True], [False, False]]


def test_perfect_tracks():
    perfect = overlaps((0, 1), (0, 1), (0, 1), tracks=2)
    assert idf1(perfect) == 1.0
    assert id_switches(perfect) == 0
    assert hota(perfect) == (1.0, 1.0, 1.0)
    assert main_id_shares(perfect).tolist() == [1.0, 1.0]
    assert found_shares(perfect).tolist() == [1.0, 1.0]


def test_a_track_that_changes_once():
    """One object of ten frames: track 0 for six of them, then track 1."""
    changed = overlaps(*[(0,)] * 6, *[(1,)] * 4, tracks=2)
    assert idf1(changed) == pytest.approx(0.6)  # 6 matches of 10 + 10 frames
    assert id_switches(changed) == 1
    # 6 matches whose pair shares 6 of 10 frames, 4 whose pair shares 4 of 10.
    association = (6 * 0.6 + 4 * 0.4) / 10
    assert hota(changed) == pytest.approx((association**0.5, 1.0, association))
    assert main_id_shares(changed).tolist() == [0.6]


def test_two_tracks_that_swap():
    swapped = overlaps(*[(0, 1)] * 5, *[(1, 0)] * 5, tracks=2)
    assert idf1(swapped) == pytest.approx(0.5)
    assert id_switches(swapped) == 2
    # Each of the four pairs shares 5 of the 15 frames in which either is.
    assert hota(swapped).association == pytest.approx(1 / 3)
    assert main_id_shares(swapped).tolist() == [0.5, 0.5]


def test_missed_frames_cost_detection_and_no_switch():
    missed = overlaps((0,), (-1,), (-1,), (0,), tracks=1)
    assert id_switches(missed) == 0
    assert idf1(missed) == pytest.approx(2 * 2 / (4 + 2))
    assert hota(missed) == pytest.approx((0.5, 0.5, 0.5))
    assert main_id_shares(missed).tolist() == [1.0]
    assert found_shares(missed).tolist() == [0.5]


def test_a_switch_after_a_gap_counts():
    assert id_switches(overlaps((0,), (-1,), (1,), (1,))) == 1


def test_matches_prefer_the_track_of_the_frame_before():
    """A second track that fits better in one frame takes nothing over."""
    iou = np.array([[[0.9, 0.0]], [[0.6, 0.8]], [[0.9, 0.0]]])
    better = Overlaps(iou, np.ones((3, 1), bool), np.ones((3, 2), bool))
    assert id_switches(better) == 0
    # A match is lost where the overlap falls below one half.
    iou[1, 0, 0] = 0.4
    assert id_switches(better) == 2


def test_hota_counts_each_threshold():
    """An IoU of 0.6 is a match at the 12 thresholds 0.05 .. 0.6."""
    loose = Overlaps(np.full((4, 1, 1), 0.6), np.ones((4, 1), bool), np.ones((4, 1), bool))
    assert len(HOTA_THRESHOLDS) == 19
    assert hota(loose) == pytest.approx((12 / 19, 12 / 19, 12 / 19))


def test_nothing_found_and_nothing_there():
    nothing = mask_overlaps(np.ones((3, 2, 2), np.uint8), np.zeros((3, 2, 2), np.uint8))
    assert hota(nothing) == (0.0, 0.0, 0.0) and idf1(nothing) == 0.0
    assert id_switches(nothing) == 0
    assert np.isnan(main_id_shares(nothing)).all() and found_shares(nothing).tolist() == [0.0]
    empty = mask_overlaps(np.zeros((3, 2, 2), np.uint8), np.ones((3, 2, 2), np.uint8))
    assert hota(empty) == (0.0, 0.0, 0.0) and idf1(empty) == 0.0
    assert main_id_shares(empty).shape == (0,)


@given(st.integers(0, 2**32 - 1))
def test_measures_do_not_depend_on_the_names_of_ids(seed):
    """Sorted names, because equally good assignments are chosen by the order of the ids."""
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 4, (2, 5, 3, 4)).astype(np.uint8)
    names = np.append(0, np.sort(rng.choice(np.arange(1, 256), 3, replace=False)))
    names = names.astype(np.uint8)
    one, other = mask_overlaps(truth, predicted), mask_overlaps(truth, names[predicted])
    assert idf1(one) == pytest.approx(idf1(other))
    assert id_switches(one) == id_switches(other)
    assert found_shares(one).tolist() == found_shares(other).tolist()
    assert 0 <= hota(one).hota <= 1

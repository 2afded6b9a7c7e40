"""Consistency of masks and the choice of the key frame."""

import numpy as np
import pytest

from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.oclr.tta.keyframe import (
    check_frames,
    consistency_error,
    consistent,
    key_frame,
    longest_run,
    object_errors,
    select_frames,
)
from oclr_jax.oclr.tta.propagation import enlarge
from tests.oclr.tta.cells import distinct_cells, random_masks


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "reference" / "golden" / "tta.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", ["lp_r3", "lp_r12", "lp_full"])
def test_the_published_error_and_labels(golden, name):
    found = np.moveaxis(golden[f"{name}/out"][0], 0, -1)
    given = np.moveaxis(golden[f"{name}/segs"][0], 0, -1)
    expected = float(golden[f"{name}/l1_error_vs_seg0"])
    assert consistency_error(found, given) == pytest.approx(expected, rel=1e-6)
    labels = golden[f"{name}/argmax_after_upsample_norm"]
    assert np.array_equal(enlarge(found, *labels.shape).argmax(-1), labels)


def test_the_published_runs(golden):
    for errors, length, expected in zip(
        golden["startend/errors"],
        golden["startend/len"],
        golden["startend/ni_nf_start"],
        strict=True,
    ):
        errors = [float(error) for error in errors[:length]]
        run = longest_run(consistent(errors))
        if expected[0] < 0:  # the published program fails without a run
            assert run is None and key_frame(errors) == 1
        else:
            assert (*run, key_frame(errors)) == tuple(expected)


def test_frames_without_objects_are_not_consistent():
    empty = np.zeros((2, 3, 3), np.float32)
    assert np.isnan(consistency_error(empty, empty))
    assert consistent([np.nan, 0.1, 0.5, np.nan]) == [False, True, False, False]
    assert key_frame([np.nan, 0.3, np.nan]) == 2  # one error equals its mean
    assert key_frame([np.nan, np.nan]) is None and key_frame([]) is None


def test_errors_by_object():
    given, found = np.zeros((2, 1, 4, 4), np.float32)
    given[0, :2, 1] = 1  # half of it found
    found[0, :1, 1] = 1
    found[0, 3, 2] = given[0, 3, 2] = 1
    errors = object_errors(found, given)
    np.testing.assert_allclose(errors[:2], [1 / 1.5, 0])
    assert np.isnan(errors[2])
    assert consistency_error(found, given) == pytest.approx((1 / 3) / 2.5)


def test_the_most_consistent_frames_are_selected():
    errors = [0.5, 0.1, np.nan, 0.3, 0.2]
    assert select_frames(errors, 3) == [2, 4, 5]
    assert select_frames(errors, 10) == [1, 2, 4, 5]


def test_each_frame_is_checked_against_the_first_and_the_last_few():
    features = [distinct_cells()] * 6
    masks = random_masks(6)
    config = TTAConfig(top=3, radius=3, check_previous=2)
    checked = list(check_frames(features, masks, config))
    assert len(checked) == 5
    for frame, (found, given) in enumerate(checked, start=1):
        assert given is masks[frame]
        if frame > 2:  # with fewer sources, other cells have some weight
            expected = np.mean([masks[0], masks[frame - 2], masks[frame - 1]], axis=0)
            np.testing.assert_allclose(found, expected, atol=1e-5)

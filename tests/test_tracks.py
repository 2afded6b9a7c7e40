"""Tracks: masks stored and composed, with and without modal masks of a refiner."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import (
    StoredMask,
    StoredProbability,
    Track,
    compose_modal,
    frame_masks,
    modal_layers,
)


def stored(rows: str, probability: float = 0.9) -> StoredMask:
    """A mask drawn with `#`, one word for each row."""
    mask = np.array([[pixel == "#" for pixel in row] for row in rows.split()])
    return StoredMask.encode(mask, np.full(mask.shape, probability, np.float32))


@given(st.integers(0, 2**32 - 1))
def test_modal_layers_are_compose_modal_in_their_order(seed):
    rng = np.random.default_rng(seed)
    amodal, order = rng.random((2, 3, 4, 3)) < 0.5, rng.integers(0, 3, 3)
    modal = modal_layers(amodal, order)
    front_to_back = np.argsort(order, kind="stable")
    for ours, layers in zip(modal, amodal, strict=True):
        expected = compose_modal([layers[..., layer] for layer in front_to_back])
        assert np.array_equal(np.moveaxis(ours, -1, 0)[front_to_back], expected)


@given(st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_modal_masks_are_the_union_cut_into_parts(layers, seed):
    amodal = list(np.random.default_rng(seed).random((layers, 6, 7)) > 0.5)
    modal = compose_modal(amodal)
    assert len(modal) == layers
    if layers:
        assert np.array_equal(np.sum(modal, axis=0) > 0, np.any(amodal, axis=0))
        assert np.sum(modal, axis=0).max() <= 1
        assert np.array_equal(modal[0], amodal[0])
        assert all((m <= a).all() for m, a in zip(modal, amodal, strict=True))


def test_a_stored_mask_is_what_was_stored():
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    found = StoredMask.encode(mask, np.where(mask, 0.75, 0.0))
    assert np.array_equal(found.decode(), mask)
    assert found.score == 0.75
    assert StoredMask.encode(np.zeros((2, 2), bool), np.ones((2, 2))).score == 0


def test_objects_in_front_hide_those_behind():
    back = Track(1, rank=1, shot=0, amodal={0: stored(".### .###")})
    front = Track(2, rank=0, shot=0, amodal={0: stored("##.. ##..")})
    ids, amodal = frame_masks([back, front], 0, 2, 4)
    assert ids.tolist() == [[2, 2, 1, 1]] * 2
    assert np.array_equal(amodal[1], back.amodal[0].decode())


def test_a_modal_mask_decides_what_is_visible():
    """Also of the object behind: it shows where the refined mask in front of it ends."""
    back = Track(1, rank=1, shot=0, amodal={0: stored("####")})
    front = Track(2, rank=0, shot=0, amodal={0: stored("##..")}, modal={0: stored("#...")})
    ids, amodal = frame_masks([back, front], 0, 1, 4)
    assert ids.tolist() == [[2, 1, 1, 1]]
    assert amodal[2].tolist() == [[True, False, False, False]], "nothing is in front of it"


def test_a_modal_mask_decides_where_nothing_hides_the_object():
    """It takes what it shows into the amodal mask, and the rest out unless an object in front is
    there.

    An object of which nothing is visible keeps the amodal mask of the flow model.
    """
    one = Track(1, rank=1, shot=0, amodal={0: stored("###...")}, modal={0: stored("..##..")})
    other = Track(2, rank=0, shot=0, amodal={0: stored(".#....")}, modal={0: stored(".#....")})
    unseen = Track(3, rank=2, shot=0, amodal={0: stored("....##")}, modal={0: stored("......")})
    ids, amodal = frame_masks([one, other, unseen], 0, 1, 6)
    assert ids.tolist() == [[0, 2, 1, 1, 0, 0]]
    assert amodal[1].tolist() == [[False, True, True, True, False, False]]
    assert amodal[2].tolist() == [[False, True, False, False, False, False]]
    assert amodal[3].tolist() == [[False, False, False, False, True, True]]


def test_a_modal_mask_may_be_empty_or_stand_alone():
    hidden = Track(1, rank=0, shot=0, amodal={0: stored("##")}, modal={0: stored("..")})
    found = Track(2, rank=1, shot=0, modal={0: stored("##"), 1: stored("#.")})
    ids, amodal = frame_masks([hidden, found], 0, 1, 2)
    assert ids.tolist() == [[2, 2]]
    assert amodal[1].all() and amodal[2].all()
    ids, amodal = frame_masks([hidden, found], 1, 1, 2)
    assert ids.tolist() == [[2, 0]] and set(amodal) == {2}


def test_only_objects_that_are_present_have_an_entry():
    """A modal mask that another object hides makes none, an amodal mask alone does."""
    front = Track(1, rank=0, shot=0, amodal={0: stored("##")}, modal={1: stored("..")})
    hidden = Track(2, rank=1, shot=0, modal={0: stored("##")})
    assert set(frame_masks([front, hidden], 0, 1, 2)[1]) == {1}
    assert set(frame_masks([front, hidden], 1, 1, 2)[1]) == set()


def test_masks_of_a_frame_may_have_their_own_resolution():
    small = Track(1, rank=1, shot=0, amodal={0: stored("## ##")})
    large = Track(2, rank=0, shot=0, modal={0: stored("#... .... .... ....")})
    ids, _ = frame_masks([small, large], 0, 4, 4)
    expected = np.ones((4, 4), np.uint8)
    expected[0, 0] = 2
    assert np.array_equal(ids, expected)


def test_the_score_of_a_frame_is_that_of_the_mask_that_is_shown():
    track = Track(1, 0, 0, amodal={frame: stored("##", 0.8) for frame in range(3)})
    track.modal = {1: stored("#.", 0.6), 2: stored(".."), 3: stored("##", 0.7), 4: stored("..")}
    scores = [track.frame_score(frame) for frame in range(5)]
    assert scores == pytest.approx([0.8, 0.6, 0.8, 0.7, 0.0])
    assert track.score == pytest.approx(0.8)
    assert Track(1, 0, 0).score == 0


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9))
def test_stored_probabilities_keep_their_side_of_one_half(values):
    probability = np.array([values + [0.5, np.nextafter(np.float32(0.5), 1)]], np.float32)
    found = StoredProbability.encode(probability, ArrayFile()).decode()
    assert np.array_equal(found > 0.5, probability > 0.5)
    np.testing.assert_allclose(found, probability, atol=1 / 512)

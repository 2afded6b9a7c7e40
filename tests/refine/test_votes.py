"""Votes of neighbours: chained flow, weights by forward-backward error, and their borders."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from oclr_jax.refine.joint import joint_probability, visible_masks
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.refine.votes import DECAY, FLOW_ERROR, REACH, collect_votes, neighbour_votes
from oclr_jax.tracks import StoredMask, Track
from tests.refine.scenes import HEIGHT, WIDTH, SceneVideo, box_masks, make_tracks

ALL = sum(DECAY**d for d in range(1, REACH + 1))


def test_chained_flow_and_weights_as_by_hand():
    rng = np.random.default_rng(0)
    height, width, frames = 12, 16, 2 * REACH + 1
    masks = rng.random((frames, height, width, 2)).astype(np.float32)
    flow = rng.normal(0, 0.02, (frames, height, width, 4)).astype(np.float32)
    flow += np.array([0.3, 0.4, -0.3, -0.4], np.float32)
    scale = FLOW_ERROR * np.hypot(height, width)

    def sample(image, x, y):
        channels = np.moveaxis(image, -1, 0)
        return np.stack([map_coordinates(c, [y, x], order=1, mode="nearest") for c in channels], -1)

    total, weights = np.zeros((height, width, 2)), np.zeros((height, width))
    for way, ahead, back in ((1, slice(0, 2), slice(2, 4)), (-1, slice(2, 4), slice(0, 2))):
        y, x = np.mgrid[:height, :width].astype(float)
        weight, motion = np.ones((height, width)), flow[REACH][..., ahead]
        for distance in range(1, REACH + 1):
            x, y = x + motion[..., 0], y + motion[..., 1]
            here = flow[REACH + way * distance]
            error = motion + sample(here[..., back], x, y)
            weight = weight * DECAY * np.exp(-((error**2).sum(-1)) / (2 * scale**2))
            weight = weight * ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))
            total += weight[..., None] * sample(masks[REACH + way * distance], x, y)
            weights += weight
            motion = sample(here[..., ahead], x, y)
    found = neighbour_votes(masks, flow, np.ones(frames, bool), 1)
    np.testing.assert_allclose(found[0][0], total, atol=1e-4)
    np.testing.assert_allclose(found[1][0], weights, atol=1e-4)
    assert 0.05 * ALL < weights.mean() < 1.9 * ALL


@pytest.mark.parametrize("gaps, step", [((1, -1), 1), ((-1, 1, 2), 1), ((3, -3), 3)])
def test_a_frame_without_a_mask_gets_it_from_its_neighbours(gaps, step):
    """Also at other gaps, and in whichever order the channels are."""
    masks = box_masks(30)
    truth = masks[13] > 0.5
    masks[13] = 0
    video, tracks = SceneVideo(30, gaps=gaps), make_tracks(masks[..., None])
    votes = collect_votes(video, tracks, range(30), range(5, 25))
    assert votes.masks.shape == (20, HEIGHT, WIDTH, 4)
    assert np.array_equal(votes.masks[13 - 5, ..., 1] > 0.5, truth)
    np.testing.assert_allclose(votes.masks.sum(axis=-1, dtype=np.float32), 1, atol=2e-3)
    assert votes.agreement.argmin() == 13 - 5 and votes.agreement[0] > 0.9


def test_flow_that_does_not_lead_back_carries_no_votes():
    masks = box_masks(9)
    masks[4] = 0
    video = SceneVideo(9, error=4 * FLOW_ERROR * np.hypot(HEIGHT, WIDTH))
    votes = collect_votes(video, make_tracks(masks[..., None]), range(9), range(9))
    assert not (votes.masks[4, ..., 1] > 0.5).any()


@pytest.mark.parametrize("gaps", [(1,), (-1,)])
def test_without_flow_to_both_sides_every_frame_has_its_own_vote(gaps):
    masks = box_masks(5)
    tracks = make_tracks(masks[..., None])
    votes = collect_votes(SceneVideo(5, gaps=gaps), tracks, range(5), range(5))
    np.testing.assert_allclose(votes.masks[..., 1], masks, atol=0.01)
    assert not votes.agreement.any()


def test_votes_do_not_cross_a_cut():
    masks = box_masks(8)
    masks[3] = 0
    video = SceneVideo(8)
    seen = collect_votes(video, make_tracks(masks[..., None]), range(8), range(3, 4))
    alone = collect_votes(video, make_tracks(masks[..., None]), range(3, 4), range(3, 4))
    assert (seen.masks[0, ..., 1] > 0.5).any() and not (alone.masks[0, ..., 1] > 0.1).any()


def test_many_objects_are_padded_to_few_sizes():
    masks = np.repeat(box_masks(2)[..., None], 9, axis=-1)
    for count, classes in ((1, 4), (3, 4), (4, 8), (9, 16)):
        tracks = make_tracks(masks[..., :count])
        assert collect_votes(SceneVideo(2), tracks, range(2), range(2)).masks.shape[-1] == classes


def test_objects_are_composed_by_depth():
    video = RefinerVideo(SceneVideo(1).clip, (1, -1), (1, 4))
    soft = {1: [0.9, 0.9, 0.1, 0.0], 2: [0.9, 0.2, 0.4, 0.0]}
    tracks = [Track(1, rank=1, shot=0), Track(2, rank=0, shot=0)]
    for track in tracks:
        probability = np.array([soft[track.id]])
        track.amodal_probability[0] = video.store_probability(probability)
        track.amodal[0] = StoredMask.encode(probability > 0.5, probability)
    joint = joint_probability(tracks, 0, (1, 4))
    np.testing.assert_allclose(joint.sum(axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(joint[0, :2], [[0.01, 0.09, 0.9], [0.08, 0.72, 0.2]], atol=5e-3)
    # A refiner before has the last word.
    tracks[1].modal_probability[0] = video.store_probability(np.zeros((2, 8)))
    np.testing.assert_allclose(joint_probability(tracks, 0, (1, 4))[0, 0, 1], 0.9, atol=5e-3)


def test_modal_probabilities_do_not_lose_what_is_in_front_of_them():
    video = RefinerVideo(SceneVideo(1).clip, (1, -1), (1, 2))
    tracks = [Track(id, rank=id, shot=0) for id in (1, 2, 3)]
    tracks[0].amodal_probability[0] = video.store_probability(np.full((1, 2), 0.9))
    tracks[1].amodal_probability[0] = video.store_probability(np.full((1, 2), 0.6))
    tracks[2].modal_probability[0] = video.store_probability(np.full((1, 2), 0.5))
    visible = np.array([0, 0.9, 0.1 * 0.6, 0.5])  # these exceed 1: nothing is left for background
    joint = joint_probability(tracks, 0, (1, 2))
    np.testing.assert_allclose(joint[0, 0], visible / visible.sum(), atol=5e-3)


def test_a_part_that_two_objects_share_is_not_lost():
    joint = np.array([[[0.3, 0.4, 0.3], [0.6, 0.4, 0.0], [0.1, 0.2, 0.7]]])
    (one, first), (two, second) = visible_masks(joint)
    assert one.tolist() == [[True, False, False]] and two.tolist() == [[False, False, True]]
    np.testing.assert_allclose(first, [[0.7, 0.4, 0.2]])
    np.testing.assert_allclose(second, [[0.3, 0.0, 0.9]])

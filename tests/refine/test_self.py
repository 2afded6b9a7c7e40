"""The refiner `self`: what it mends, what it leaves alone, and what it must get along with."""

import numpy as np
import pytest

from oclr_jax.ops.metrics import jaccard
from oclr_jax.refine import appearance, self_refiner, votes
from oclr_jax.refine.refiner import DEFAULT_REFINERS, open_refiners, refine_tracks
from oclr_jax.refine.self_refiner import SelfRefiner, choose_frames
from oclr_jax.tracks import Track
from tests.refine.scenes import HEIGHT, WIDTH, SceneVideo, box_frames, box_masks, make_tracks

FRAMES = 14
REFINER = SelfRefiner(steps=60)


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    monkeypatch.setattr(self_refiner, "TRAINED_PIXELS", 4096)
    monkeypatch.setattr(self_refiner, "CHECKED_PIXELS", 1024)


def refine(masks: np.ndarray, frames: np.ndarray | None = None, **video) -> list[Track]:
    """Refines the masks `[t h w k]`; they are those of `box_frames` without frames."""
    scene = SceneVideo(box_frames(len(masks)) if frames is None else frames, **video)
    return refine_tracks([REFINER], scene, make_tracks(masks))


def modal(track: Track) -> np.ndarray:
    return np.stack([track.modal[frame].decode() for frame in sorted(track.modal)])


def truth(frames: int = FRAMES) -> np.ndarray:
    return box_masks(frames).repeat(2, axis=1).repeat(2, axis=2) > 0.5


def noisy_masks() -> np.ndarray:
    """The box with halos, less a part of its lower third, and lost in one frame."""
    masks = box_masks(FRAMES)
    rng = np.random.default_rng(1)
    for frame, mask in enumerate(masks):
        left = 4 + frame
        for column in (left - 4, left + 16):
            mask[8:24, column : column + 4] = rng.choice([0.05, 0.7])
        mask[rng.integers(18, 24) :, left : left + 16] = 0.1
    masks[6] = 0.02
    return masks[..., None]


def test_masks_become_better_and_nothing_else_changes():
    masks = noisy_masks()
    (given,) = make_tracks(masks)
    (track,) = refine(masks)
    found = modal(track)
    assert found.shape == (FRAMES, 2 * HEIGHT, 2 * WIDTH)
    raw = (masks[..., 0] > 0.5).repeat(2, axis=1).repeat(2, axis=2)
    before, after = jaccard(raw, truth()), jaccard(found, truth())
    assert after.mean() > before.mean() + 0.1 and after.min() > 0.6
    assert (track.id, track.rank, track.shot) == (1, 0, 0)
    assert track.amodal == given.amodal
    assert all(
        np.array_equal(track.amodal_probability[f].decode(), stored.decode())
        for f, stored in given.amodal_probability.items()
    )
    for frame, stored in track.modal_probability.items():
        assert np.array_equal(stored.decode() > 0.5, track.modal[frame].decode())


def test_the_same_seed_gives_the_same_masks():
    one, other = (refine(noisy_masks())[0] for _ in range(2))
    assert one.modal == other.modal
    assert SelfRefiner(seed=1).settings() == {"steps": 600, "seed": 1}


def test_votes_bring_back_what_is_lost_in_a_frame(monkeypatch):
    monkeypatch.setattr(self_refiner, "MAX_WEIGHT", 0.0)
    masks = box_masks(FRAMES)[..., None]
    masks[6] = 0.02
    assert jaccard(modal(refine(masks)[0])[6], truth()[6]) > 0.9
    assert not modal(refine(masks, gaps=(1,))[0])[6].any(), "no flow back, no votes"


def test_appearance_brings_back_what_is_lost_for_long(monkeypatch):
    """The lower half of the box is lost in eight frames; votes do not reach the middle ones."""
    masks = box_masks(24)[..., None]
    masks[8:16, 16:24] = 0.25 * masks[8:16, 16:24]
    wanted = truth(24)[11:13, 32:]
    assert jaccard(modal(refine(masks)[0])[11:13, 32:], wanted).min() > 0.8
    monkeypatch.setattr(self_refiner, "MAX_WEIGHT", 0.0)
    assert not (modal(refine(masks)[0])[11:13, 34:] & wanted[:, 2:]).any()


def test_a_classifier_that_finds_nothing_in_common_is_not_used(monkeypatch):
    """An object that looks like all the rest and jumps about: its masks are those of the votes."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (FRAMES, 2 * HEIGHT, 2 * WIDTH, 3)).astype(np.uint8)
    masks = np.full((FRAMES, HEIGHT, WIDTH, 1), 0.02, np.float32)
    masks[:, 4:28, 4:60] = rng.choice([0.02, 0.98], (FRAMES, 6, 14, 1)).repeat(4, 1).repeat(4, 2)
    found = modal(refine(masks, frames)[0])
    monkeypatch.setattr(self_refiner, "MAX_WEIGHT", 0.0)
    assert np.array_equal(found, modal(refine(masks, frames)[0]))


def test_one_object_in_two_layers_keeps_both_ids_and_all_of_its_pixels():
    whole = box_masks(FRAMES)
    masks = np.full((FRAMES, HEIGHT, WIDTH, 2), 0.02, np.float32)
    masks[:, :15, :, 0], masks[:, 16:, :, 1] = whole[:, :15], whole[:, 16:]
    masks[:, 15] = 0.45 * (whole[:, 15, :, None] > 0.5)
    one, two = refine(masks)
    assert [one.id, two.id] == [1, 2]
    assert not (modal(one) & modal(two)).any()
    assert jaccard(modal(one) | modal(two), truth()).mean() > 0.95


@pytest.mark.parametrize("count", [0, 9])
def test_any_number_of_objects(count):
    masks = np.full((3, HEIGHT, WIDTH, count), 0.02, np.float32)
    for k in range(count):
        masks[:, 2:28, 7 * k : 7 * k + 5, k] = 0.97
    tracks = refine(masks)
    assert [track.id for track in tracks] == list(range(1, count + 1))
    assert all(modal(track).any(axis=(1, 2)).all() for track in tracks)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_shots_of_any_length_and_objects_of_one_of_them(frames):
    """Also an object without masks, and one frame between two cuts."""
    scene = SceneVideo(frames + 4, shots=[range(frames), range(frames, frames + 4)])
    (first,) = make_tracks(box_masks(frames)[..., None])
    empty = Track(2, rank=1, shot=1)
    refined = REFINER(scene, [first, empty])
    assert sorted(refined[0].modal) == list(range(frames)) and not refined[1].modal
    assert modal(refined[0]).any(axis=(1, 2)).all()


def test_one_program_serves_videos_of_all_lengths():
    programs = (appearance.train_classifier, self_refiner._average, votes.neighbour_votes)
    refine(box_masks(3)[..., None])
    compiled = [program._cache_size() for program in programs]
    for frames in (2, 9, 21):
        refine(np.repeat(box_masks(frames)[..., None], 1 + frames % 2, axis=-1))
    assert [program._cache_size() for program in programs] == compiled


def test_long_shots_are_refined_in_parts(monkeypatch):
    whole = votes.shot_agreement(SceneVideo(FRAMES), make_tracks(noisy_masks()), range(FRAMES))
    monkeypatch.setattr(self_refiner, "PART_FRAMES", 5)
    monkeypatch.setattr(votes, "PART_FRAMES", 5)
    assert jaccard(modal(refine(noisy_masks())[0]), truth()).mean() > 0.7
    parts = votes.shot_agreement(SceneVideo(FRAMES), make_tracks(noisy_masks()), range(FRAMES))
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert votes.split_evenly(range(3, 15), 5) == [range(3, 7), range(7, 11), range(11, 15)]
    assert votes.split_evenly(range(0), 5) == []


def test_training_leaves_out_frames_that_do_not_agree():
    agreement = np.full(12, 0.9, np.float32)
    agreement[[1, 7, 8]] = 0.1
    trained, checked = choose_frames(agreement)
    assert trained == [0, 2, 4, 5, 6, 9, 10] and checked == [3, 11]
    assert choose_frames(agreement[:1]) == ([0], [0])


def test_the_refiner_is_the_default():
    (refiner,) = open_refiners(DEFAULT_REFINERS)
    assert isinstance(refiner, SelfRefiner) and refiner.name == "self"

"""The dense CRF: published answers, what it does to masks, and its place among the refiners."""

import dataclasses

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.refine import crf
from oclr_jax.refine.crf import CRF, dense_crf, unary_energy
from oclr_jax.refine.crf_settings import CRF_PRESETS, DEFAULT_PRESET
from oclr_jax.refine.feature_cache import FeatureCache
from oclr_jax.refine.refiner import REFINERS, Refiner, RefinerVideo, open_refiners, refine_tracks
from oclr_jax.tracks import StoredMask, Track, frame_masks
from oclr_jax.video.clip import open_clip

SEQUENCES = ("camel", "dog", "soapbox")
GOLDEN = {
    "cis": "cis_soft",
    "mp-net": "mpnet_soft",
    "tokencut": "tokencut_soft",
    "locate": "locate_soft",
    "labels": "labels08_hard",
}


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def published_case(golden, sequence: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The image and the mask at its size."""
    image = golden[f"{sequence}/image"]
    height, width, _ = image.shape
    low = np.unpackbits(golden[f"{sequence}/mask_low"], axis=1)[:, :224].astype(np.float32)
    if kind.endswith("hard"):
        rows, columns = (np.arange(height) * 128) // height, (np.arange(width) * 224) // width
        return image, low[rows][:, columns]
    return image, cv2.resize(low, (width, height), interpolation=cv2.INTER_LINEAR)


def cases():
    fast = {("camel", "tokencut"), ("soapbox", "labels")}
    for preset in GOLDEN:
        for sequence in SEQUENCES:
            marks = [] if (sequence, preset) in fast else [pytest.mark.slow]
            yield pytest.param(sequence, preset, marks=marks)


@pytest.mark.parametrize("sequence, preset", list(cases()))
def test_the_answers_of_pydensecrf(shared_dir, sequence, preset):
    golden = np.load(shared_dir / "reference" / "later" / "golden" / "crf_pydensecrf.npz")
    kind = GOLDEN[preset]
    image, mask = published_case(golden, sequence, kind)
    probability = jnp.asarray(np.stack([1 - mask, mask]))
    q = np.asarray(dense_crf(jnp.asarray(image), probability, CRF_PRESETS[preset]))
    width = image.shape[1]
    labels = q[1] > q[0]
    expected = np.unpackbits(golden[f"{sequence}/{kind}/labels"], axis=1)[:, :width].astype(bool)
    assert (labels == expected).mean() >= 0.997
    columns = (width + 1) // 2
    annotation = np.unpackbits(golden[f"{sequence}/annotation"], axis=1)[:, :columns].astype(bool)
    gain = iou(labels[:, ::2], annotation) - iou(expected[:, ::2], annotation)
    assert abs(gain) <= 0.015
    if f"{sequence}/{kind}/exact_labels" in golden:
        exact = np.unpackbits(golden[f"{sequence}/{kind}/exact_labels"], axis=1)[:, :width]
        assert (labels == exact.astype(bool)).mean() >= 0.997


@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, 4])
def test_beside_pydensecrf_at_480p(labels):
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf2")
    rng = np.random.default_rng(labels)
    image = cv2.resize(rng.integers(0, 256, (12, 20, 3), np.uint8), (854, 480))
    soft = rng.random((labels, 6, 10), np.float32)
    soft = np.stack([cv2.resize(one, (854, 480)) for one in soft])
    probability = soft / soft.sum(axis=0)
    settings = CRF_PRESETS["mp-net"]
    field = densecrf.DenseCRF2D(854, 480, labels)
    energy = np.asarray(unary_energy(jnp.asarray(probability), settings))
    field.setUnaryEnergy(np.ascontiguousarray(energy.reshape(labels, -1)))
    field.addPairwiseGaussian(settings.spatial_sigma, settings.spatial_weight)
    field.addPairwiseBilateral(
        settings.bilateral_sigma, settings.color_sigma, image, settings.bilateral_weight
    )
    expected = np.array(field.inference(settings.iterations)).argmax(axis=0).reshape(480, 854)
    q = dense_crf(jnp.asarray(image), jnp.asarray(probability), settings)
    assert (np.asarray(q.argmax(axis=0)) == expected).mean() >= 0.997


def test_energies_are_those_of_the_published_programs():
    p = np.array([[[0.0, 0.2, 0.8]]], np.float32)
    both = jnp.asarray(np.concatenate([1 - p, p]))

    def energy(name):
        return np.asarray(unary_energy(both, CRF_PRESETS[name]))[:, 0]

    clipped = np.clip([[1, 0.8, 0.2], [0, 0.2, 0.8]], 1e-5, 1)
    np.testing.assert_allclose(energy("mp-net"), -np.log(clipped), rtol=1e-5)
    peak = np.clip([[1, 0.75, 0], [0, 0.25, 1]], 1e-6, 1)
    np.testing.assert_allclose(energy("cis"), -np.log(peak), rtol=1e-5, atol=1e-6)
    exponential = np.exp([[1, 0.8, 0.2], [0, 0.2, 0.8]])
    softmax = exponential / exponential.sum(axis=0)
    np.testing.assert_allclose(energy("tokencut"), -np.log(softmax), rtol=1e-5)
    label = [[0.8, 0.8, 0.2], [0.2, 0.2, 0.8]]
    np.testing.assert_allclose(energy("labels"), -np.log(label), rtol=1e-5)


HEIGHT, WIDTH = 47, 61


def scene(frames: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """RGB and ids: two plain squares on a plain background, with some noise."""
    ids = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    for frame in range(frames):
        ids[frame, 8:28, 6 + frame : 26 + frame] = 1
        ids[frame, 22:42, 34:54] = 2
    colors = np.array([[90, 90, 90], [220, 60, 60], [60, 60, 220]])
    noise = np.random.default_rng(0).normal(0, 3, (*ids.shape, 3))
    return np.clip(colors[ids] + noise, 0, 255).astype(np.uint8), ids


def soft_tracks(video: RefinerVideo, ids: np.ndarray) -> list[Track]:
    """Tracks whose masks are too large, on a coarse grid; the third object is never visible."""
    tracks = []
    for id in (1, 2, 3):
        track = Track(id, rank=id - 1, shot=0)
        for frame, here in enumerate(ids):
            grown = cv2.dilate((here == id).astype(np.float32), np.ones((7, 7)))
            soft = 0.05 + 0.75 * cv2.resize(grown, (30, 24), interpolation=cv2.INTER_AREA)
            track.amodal[frame] = StoredMask.encode(soft > 0.5, soft)
            track.amodal_probability[frame] = video.store_probability(soft)
        tracks.append(track)
    return tracks


def make_video(images: np.ndarray) -> RefinerVideo:
    return RefinerVideo(open_clip(images), (1, -1), (24, 30), feature_cache=FeatureCache("unused"))


@pytest.mark.parametrize("frames", [2, 3])
def test_masks_snap_to_the_edges_of_the_image(frames):
    images, ids = scene(frames)
    video = make_video(images)
    tracks = soft_tracks(video, ids)
    before = [dict(track.modal) for track in tracks]
    refined = refine_tracks([CRF()], video, tracks)
    assert [track.modal for track in tracks] == before, "the input is not changed"
    for frame in range(frames):
        raw, _ = frame_masks(tracks, frame, HEIGHT, WIDTH)
        found, _ = frame_masks(refined, frame, HEIGHT, WIDTH)
        for id in (1, 2):
            assert iou(raw == id, ids[frame] == id) < 0.8
            assert iou(found == id, ids[frame] == id) > 0.95
            assert refined[id - 1].modal[frame].score > 0.5
        assert not (found == 3).any() and frame not in refined[2].modal
    assert all(one.amodal == two.amodal for one, two in zip(tracks, refined, strict=True))
    assert all(one.modal_probability.keys() == one.modal.keys() for one in refined)
    probability = refined[0].modal_probability[0].decode()
    assert (probability[refined[0].modal[0].decode()] > 0.5).mean() > 0.95


def test_modal_probabilities_of_an_earlier_refiner_are_used():
    images, ids = scene()
    video = make_video(images)
    first, *others = soft_tracks(video, ids)
    nothing = video.store_probability(np.full((24, 30), 0.1))
    refined = CRF()(video, [dataclasses.replace(first, modal_probability={0: nothing}), *others])
    assert 0 not in refined[0].modal and refined[1].modal[0].decode().any()


def test_frames_without_probabilities_stay_as_they_are():
    images, ids = scene(2)
    video = make_video(images)
    tracks = soft_tracks(video, ids)
    for track in tracks:
        del track.amodal_probability[1]
    refined = CRF()(video, tracks)
    assert 0 in refined[0].modal and 1 not in refined[0].modal
    assert CRF()(video, []) == []


def test_large_frames_are_reduced(monkeypatch):
    monkeypatch.setattr(crf, "MAX_PIXELS", HEIGHT * WIDTH // 4)
    images, ids = scene()
    video = make_video(images)
    refined = CRF()(video, soft_tracks(video, ids))
    assert refined[0].modal[0].shape == (23, 30)
    found, _ = frame_masks(refined, 0, HEIGHT, WIDTH)
    assert iou(found == 1, ids[0] == 1) > 0.85


def test_frames_of_one_shape_share_a_program():
    images, ids = scene(3)
    video = make_video(images)
    tracks = soft_tracks(video, ids)
    for program in (crf._infer, crf._bilateral_features):
        program.clear_cache()
    CRF()(video, tracks)
    assert crf._infer._cache_size() == crf._bilateral_features._cache_size() == 1


def test_its_settings_are_recorded_by_name():
    assert (
        "crf" in REFINERS and "crf:tokencut" in REFINERS and f"crf:{DEFAULT_PRESET}" not in REFINERS
    )
    default, other = open_refiners(["crf"])[0], open_refiners(["crf:cis"])[0]
    assert isinstance(default, Refiner) and default.settings()["preset"] == DEFAULT_PRESET
    assert other.settings()["bilateral_sigma"] == 60 and other.settings()["peak"] is True


@pytest.mark.parametrize("names", [["crf", "painter"], ["crf:cis", "crf"]])
def test_it_must_be_the_last_refiner(monkeypatch, names):
    monkeypatch.setitem(REFINERS, "painter", CRF)
    with pytest.raises(UserError, match=f"{names[0]} must be the last"):
        open_refiners(names)
    assert len(open_refiners(["painter", "crf"])) == 2

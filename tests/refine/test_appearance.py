"""The classifier of pixels: what it sees of a frame, what it is trained on, what it learns."""

import jax
import jax.numpy as jnp
import numpy as np

from oclr_jax.refine.appearance import (
    check_classifier,
    collect_pixels,
    log_probabilities,
    missing_objects,
    object_places,
    pixel_features,
    train_classifier,
)
from tests.refine.scenes import HEIGHT, WIDTH, box_frames, box_masks


def classes(*objects: np.ndarray) -> np.ndarray:
    """Soft masks `[t h w]` of objects, with the background before and one empty class after."""
    masks = np.stack([*objects, np.zeros_like(objects[0])], axis=-1)
    return np.concatenate([1 - masks.sum(axis=-1, keepdims=True), masks], axis=-1)


def test_features_of_a_plain_picture_and_of_an_edge():
    image = np.full((40, 80, 3), 90, np.uint8)
    features = pixel_features(image)
    assert features.shape == (40, 80, 14) and np.isfinite(features).all()
    for blurred in (features[..., 3:6], features[..., 6:9]):
        np.testing.assert_allclose(blurred, features[..., :3], atol=1e-2)
    np.testing.assert_allclose(features[..., 9:12], 0, atol=2e-2)
    np.testing.assert_allclose(features[0, :2, 12], [0.5 / 80, 1.5 / 80])
    np.testing.assert_allclose(features[[0, 39], 0, 13], [0.5 / 40, 39.5 / 40])
    image[:, 40:] = 200
    deviation = pixel_features(image)[20, :, 9]
    assert deviation[39] > 0.2 and deviation[10] < 0.02


def test_places_of_objects_and_of_those_that_are_absent():
    masks = box_masks(5)
    masks[3] = 0
    places = object_places(classes(masks))
    assert places.shape == (5, 2, 4) and np.isfinite(places).all()
    np.testing.assert_allclose(places[0, 0, :2], [12 / WIDTH, 16 / HEIGHT], atol=1e-6)
    # A box of 16 pixels has a standard deviation of 4.6.
    np.testing.assert_allclose(places[0, 0, 2:], [4.61 / WIDTH, 4.61 / HEIGHT], rtol=1e-2)
    np.testing.assert_allclose(places[3, 0], (places[2, 0] + places[4, 0]) / 2, atol=1e-6)


def test_missing_objects():
    masks = box_masks(6)
    masks[2] = 0
    masks[3, :, 10:] = 0  # a small part is left
    masks[4, 20:] = 0  # most is left
    missing = missing_objects(classes(masks))
    assert missing[:, 1].tolist() == [False, False, True, True, False, False]
    assert not missing[:, [0, 2]].any(), "neither the background nor a class without masks"


def pixels_of(frames: np.ndarray, masks: np.ndarray, seed: int = 0, count: int = 3000):
    rng = np.random.default_rng(seed)
    return collect_pixels(rng, list(frames), masks, object_places(masks), range(len(frames)), count)


def test_pixels_are_drawn_evenly_from_inside_around_and_outside():
    large, small = box_masks(4), np.full((4, HEIGHT, WIDTH), 0.01, np.float32)
    small[:, 28:30, 2:4] = 0.95
    masks = classes(large, small)
    pixels = pixels_of(box_frames(4), masks)
    shares = (pixels.targets > 0.5).mean(axis=0)
    np.testing.assert_allclose(shares, [2 / 3, 1 / 6, 1 / 6, 0], atol=0.03)
    assert not pixels.missing.any()
    # Without any foreground, or without any background, pixels are drawn all the same.
    for only in (0, 1):
        everywhere = np.zeros_like(masks)
        everywhere[..., only] = 1
        found = pixels_of(box_frames(4), everywhere, count=50)
        assert found.features.shape == (50, 14) and (found.targets[:, only] == 1).all()


def test_the_classifier_learns_colours_and_is_the_same_for_a_seed():
    frames, masks = box_frames(6), classes(box_masks(6))
    pixels = pixels_of(frames, masks)
    one, other = (train_classifier(jax.random.key(0), pixels, 60) for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))
    check = check_classifier(one, pixels_of(frames, masks, seed=1))
    assert check[0] > 0.9 and check[1] > 0.9 and check[2] < 0.1
    features, places = jnp.asarray(pixel_features(frames[3])), jnp.asarray(object_places(masks)[3])
    found = np.exp(log_probabilities(one, features, places[None, None]))[::2, ::2]
    assert ((found[..., 1] > 0.5) == (masks[3, ..., 1] > 0.5)).mean() > 0.98


def test_an_object_that_pauses_is_not_learnt_as_background():
    """Where it is missing, its pixels are not held against it."""
    frames, masks = box_frames(12), box_masks(12)
    masks[3:] = 0  # found in three frames of twelve
    pixels = pixels_of(frames, classes(masks))
    assert pixels.missing[:, 1].any()
    features = jnp.asarray(pixel_features(frames[4]))
    places = jnp.asarray(object_places(classes(masks))[4])
    shown = {}
    for name, one in (
        ("missing", pixels),
        ("background", pixels._replace(missing=pixels.missing * False)),
    ):
        classifier = train_classifier(jax.random.key(0), one, 60)
        found = np.exp(log_probabilities(classifier, features, places[None, None]))[..., 1]
        shown[name] = found[24:40, 24:40].mean()
        assert found[50:, 100:].mean() < 0.05, "the background elsewhere stays background"
    assert shown["missing"] > 0.8 > 0.5 > shown["background"]

"""Photometric augmentation: each part alone does what its name says, and none changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.loaders.photometric import (
    NO_PHOTOMETRIC_AUGMENTATION,
    PhotometricAugmentation,
    change_colours,
)

T, H, W = 3, 24, 40


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A dull red square before a blueish background, both with texture; a second, empty layer."""
    rng = np.random.default_rng(0)
    modal = np.zeros((T, H, W, 2), np.uint8)
    modal[:, 6:18, 10:26, 0] = 1
    colours = np.where(modal[..., :1] == 1, [150, 90, 80], [60, 90, 140])
    texture = rng.integers(-20, 21, (H, W, 1))
    return (colours + texture).astype(np.uint8), modal


def changed(seed: int = 0, **settings: float) -> np.ndarray:
    rgb, modal = scene()
    one = replace(NO_PHOTOMETRIC_AUGMENTATION, **settings)
    return change_colours(rgb, modal, np.random.default_rng(seed), one).astype(float)


# Pixels well inside and well outside the square.
INSIDE, OUTSIDE = np.s_[:, 9:15, 13:23], np.s_[:, :, 30:]


def test_without_augmentation_nothing_changes():
    np.testing.assert_array_equal(changed(), scene()[0])


def test_a_harmonized_object_takes_on_the_colours_of_the_background():
    rgb = scene()[0].astype(float)
    far = np.abs(rgb[INSIDE].mean((0, 1, 2)) - rgb[OUTSIDE].mean((0, 1, 2)))
    for seed in range(5):
        frames = changed(seed, harmonize=1.0)
        near = np.abs(frames[INSIDE].mean((0, 1, 2)) - frames[OUTSIDE].mean((0, 1, 2)))
        assert (near <= 0.55 * far + 2).all()
        np.testing.assert_array_equal(frames[OUTSIDE], rgb[OUTSIDE])
        # The texture stays.
        correlation = np.corrcoef(frames[INSIDE][..., 0].ravel(), rgb[INSIDE][..., 0].ravel())
        assert correlation[0, 1] > 0.95


def test_colours_of_an_object_change_alone_and_alike_in_all_frames():
    rgb = scene()[0].astype(float)
    seen = set()
    for seed in range(5):
        frames = changed(seed, recolour=1.0)
        np.testing.assert_array_equal(frames[OUTSIDE], rgb[OUTSIDE])
        np.testing.assert_array_equal(frames[0], frames[2])
        seen.add(round(frames[INSIDE].mean()))
    assert len(seen) == 5


def test_colours_of_all_frames_change_within_the_bounds():
    rgb = scene()[0].astype(float)
    ratios = []
    for seed in range(40):
        frames = changed(seed, colour=1.0, max_gain=0.2, max_tint=0.0)
        np.testing.assert_array_equal(frames[0], frames[2])
        ratios.append(frames.mean() / rgb.mean())
    assert 0.79 < min(ratios) < 0.9 and 1.1 < max(ratios) < 1.21


def test_frames_without_colour():
    frames = changed(grey=1.0)
    np.testing.assert_array_equal(frames, frames[..., :1].repeat(3, axis=-1))


def test_blur_and_noise():
    rgb = scene()[0].astype(float)
    blurred = changed(1, blur=1.0)
    assert blurred[OUTSIDE][..., 0].std() < 0.8 * rgb[OUTSIDE][..., 0].std()
    noise = changed(noise=1.0) - rgb
    assert 1 < noise.std() < 10.5
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


@pytest.mark.parametrize("full", [True, False])
def test_one_class_alone_is_never_harmonized(full):
    """Without background or without objects there is nothing to take colours from."""
    rgb, modal = scene()
    modal[:] = 0
    modal[..., 0] = full
    always = replace(NO_PHOTOMETRIC_AUGMENTATION, harmonize=1.0, recolour=1.0)
    frames = change_colours(rgb, modal, np.random.default_rng(0), always)
    np.testing.assert_array_equal(frames, rgb)


def test_the_default_depends_on_the_seed_alone():
    rgb, modal = scene()
    one, same, other = (
        change_colours(rgb, modal, np.random.default_rng(seed), PhotometricAugmentation())
        for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()

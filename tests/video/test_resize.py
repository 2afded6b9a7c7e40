"""Resizing of images, masks and ids."""

import numpy as np

from oclr_jax.video.resize import resize_ids, resize_image, resize_mask


def test_an_image_keeps_its_mean_when_it_shrinks():
    image = np.random.default_rng(0).random((12, 20, 3)).astype(np.float32)
    small = resize_image(image, 6, 5)
    np.testing.assert_allclose(small[0, 0], image[:2, :4].mean(axis=(0, 1)), rtol=1e-5)


def test_a_mask_grows_bilinearly():
    mask = np.zeros((2, 2), bool)
    mask[0] = True
    np.testing.assert_array_equal(resize_mask(mask, 8, 3), np.arange(8)[:, None] < [[4] * 3])


def test_ids_are_never_mixed():
    ids = np.array([[0, 7], [200, 0]], np.uint8)
    np.testing.assert_array_equal(resize_ids(ids, 4, 6), np.kron(ids, np.ones((2, 3), np.uint8)))
    layers = np.stack([ids, ids[::-1]], axis=-1)
    np.testing.assert_array_equal(resize_ids(layers, 4, 4)[..., 1], resize_ids(ids[::-1], 4, 4))
    assert resize_ids(layers[..., :1], 4, 4).shape == (4, 4, 1)

"""Distances from masks: equal to OpenCV's exact transform; empty masks."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops.distance import mask_distance


@pytest.mark.parametrize("share", [0.001, 0.02, 0.6])
def test_distances_are_those_of_opencv(share):
    masks = np.random.default_rng(0).random((3, 2, 24, 37)) < share
    masks[0, 0, 5, 6] = masks[1, 1, 20, 0] = True
    masks[2, 1] = False
    found = np.asarray(mask_distance(jnp.asarray(masks)))
    for mask, distance in zip(masks.reshape(-1, 24, 37), found.reshape(-1, 24, 37), strict=True):
        outside = (~mask).astype(np.uint8)
        expected = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        np.testing.assert_allclose(distance, expected if mask.any() else 0, atol=1e-4)

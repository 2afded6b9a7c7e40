import numpy as np
import pytest

from oclr_jax.flow import resize_flow
from oclr_jax.video.resize import resize_image


def affine_flow(height: int, width: int) -> np.ndarray:
    """u and v linear in the position, the same motion of the plane on every grid."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    u = (0.02 + 0.05 * x - 0.03 * y) * width
    v = (-0.01 + 0.04 * x + 0.02 * y) * height
    return np.stack([u, v], axis=-1).astype(np.float32)


@pytest.mark.parametrize("size", [(24, 28), (96, 112), (24, 112), (96, 28), (40, 36)])
def test_affine_flow_resizes_exactly(size):
    resized = resize_flow(affine_flow(48, 56), *size)
    # The outermost pixels repeat what is inside; fractions of pixels are worth 0.005 px here.
    inner = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(resized[inner], affine_flow(*size)[inner], atol=5e-3)


def test_values_of_several_gaps_and_frames_are_scaled_apart():
    flow = np.ones((2, 3, 8, 10, 4), np.float32) * [1, 2, 3, 4]
    resized = resize_flow(flow.astype(np.float32), 16, 5)
    assert resized.shape == (2, 3, 16, 5, 4)
    np.testing.assert_allclose(resized, np.broadcast_to([0.5, 4, 1.5, 8], resized.shape))


def test_shrinking_takes_the_mean_of_the_area():
    image = np.random.default_rng(0).random((12, 20)).astype(np.float32)
    expected = image.reshape(3, 4, 5, 4).mean((1, 3))
    np.testing.assert_allclose(resize_image(image, 3, 5), expected, rtol=1e-5)
    # One axis grows; the other still takes means, without aliasing.
    mixed = resize_image(image, 3, 40)
    np.testing.assert_allclose(mixed.mean(), image.mean(), rtol=0.05)
    np.testing.assert_allclose(mixed[:, ::2], mixed[:, 1::2], atol=0.5)


def test_an_image_of_the_right_size_is_untouched_and_single_channels_stay():
    image = np.zeros((6, 8, 1), np.uint8)
    assert resize_image(image, 6, 8) is image
    assert resize_image(image, 3, 9).shape == (3, 9, 1)


def test_flow_at_many_gaps_is_resized_like_that_at_each():
    flow = np.random.default_rng(0).normal(size=(2, 12, 20, 10)).astype(np.float32)
    for size in ((6, 10), (6, 30), (30, 40)):
        each = [resize_flow(flow[..., c : c + 2], *size) for c in range(0, 10, 2)]
        np.testing.assert_allclose(
            resize_flow(flow, *size), np.concatenate(each, axis=-1), atol=1e-5
        )

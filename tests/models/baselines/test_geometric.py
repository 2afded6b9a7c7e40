"""The geometric baseline on flow whose camera and object are known."""

import numpy as np
import pytest

from oclr_jax.models.baselines.geometric import moving_object, predict_geometric, unexplained_flow

HEIGHT, WIDTH = 64, 96


def camera_flow(homography: np.ndarray) -> np.ndarray:
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    place = np.stack([x, y, np.ones_like(x)])
    moved = np.einsum("ij,jhw->ihw", homography, place)
    return np.moveaxis(moved[:2] / moved[2] - place[:2], 0, -1).astype(np.float32)


def scene(direction: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Flow of a turning, zooming and tilting camera, and a large and a small object in it."""
    homography = np.array([[1.03, 0.02, -2], [-0.02, 1.02, 1], [1e-4, -1e-4, 1]])
    flow = camera_flow(homography)
    large, small = np.zeros((2, HEIGHT, WIDTH), bool)
    large[20:44, 30:60], small[4:8, 4:8] = True, True
    flow[large | small] += (4, -3)
    return direction * flow, large


def test_a_homography_explains_the_camera():
    flow, large = scene()
    left = unexplained_flow(flow)
    assert left[large].min() > 4.5 and np.median(left) < 0.05


@pytest.mark.parametrize("gaps", [1, 2])
def test_the_largest_part_that_does_not_move_with_the_camera(gaps):
    flow, large = scene()
    assert np.array_equal(moving_object(np.concatenate([flow] * gaps, axis=-1)), large)


def test_a_window_has_one_layer():
    flow, large = scene()
    window = np.stack([flow, np.zeros_like(flow), flow[:, ::-1] * (-1, 1)]).astype(np.float32)
    layers, order = predict_geometric(None, window[None])
    assert layers.shape == (1, 3, HEIGHT, WIDTH, 1) and order.shape == (1, 1)
    assert np.array_equal(layers[0, 0, ..., 0] > 0.5, large)
    assert not layers[0, 1].any(), "nothing moves"
    assert np.array_equal(layers[0, 2, ..., 0] > 0.5, large[:, ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8)])
def test_small_and_random_flow(shape):
    flow = np.random.default_rng(0).normal(0, 9, (*shape, 2)).astype(np.float32)
    assert moving_object(flow).shape == shape

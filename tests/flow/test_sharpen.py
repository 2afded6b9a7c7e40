import cv2
import numpy as np
import pytest

from oclr_jax.flow.sharpen import sharpen

SIZE = 96, 128
MOTION = np.array([4.0, 2.0], np.float32)


def texture(seed: int, level: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 60, (*SIZE, 3)).astype(np.float32)
    return np.clip(level + cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)


@pytest.fixture
def scene():
    """A bright square that moves over a dark background: two frames, its masks, the true flow."""
    masks, frames = [], []
    for u, v in ((0, 0), MOTION.astype(int)):
        mask = np.zeros(SIZE, bool)
        mask[32 + v : 64 + v, 40 + u : 80 + u] = True
        square = np.roll(texture(1, 200), (v, u), axis=(0, 1))
        frames.append(np.where(mask[..., None], square, texture(2, 60)))
        masks.append(mask)
    return frames, masks, masks[0][..., None] * MOTION, masks[1][..., None] * -MOTION


def spilled(mask: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Flow of the square that reaches 5 pixels beyond it, as estimated flow does."""
    kernel = np.ones((11, 11), np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel)[..., None].astype(np.float32) * motion


def error(flow: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(flow - truth, axis=-1).mean())


def test_flow_no_longer_spills_over_an_outline(scene):
    frames, masks, truth, backward = scene
    flow = spilled(masks[0], MOTION)
    sharp = sharpen(flow, backward, *frames)
    assert error(sharp, truth) < 0.4 * error(flow, truth)
    # Nor is the square eaten into.
    inside = cv2.erode(masks[0].astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert np.abs(sharp - truth)[inside].mean() < 0.05


def test_colour_alone_tells_sides_apart_but_the_way_back_helps(scene):
    frames, masks, truth, backward = scene
    flow = spilled(masks[0], MOTION)
    returning = sharpen(flow, backward, *frames)
    # A flow back that agrees with the spill everywhere, so that it distrusts nothing.
    agreeing = sharpen(flow, np.broadcast_to(-flow, flow.shape).copy(), *frames)
    assert error(returning, truth) < error(agreeing, truth) < error(flow, truth)


def test_what_the_second_frame_hides_gets_the_flow_around_it():
    """Trust is low where the flow does not return, so a hole is filled from its surroundings."""
    frame = texture(3, 120)
    flow = np.full((*SIZE, 2), 3.0, np.float32)
    hole = np.s_[40:46, 60:66]
    flow[hole] = -20.0
    sharp = sharpen(flow, np.full_like(flow, -3.0), frame, np.roll(frame, (3, 3), axis=(0, 1)))
    assert np.abs(sharp[hole] - 3.0).max() < 0.5 < np.abs(flow[hole] - 3.0).max()


def test_flow_to_another_colour_is_not_trusted():
    """The wrong flow of a hole returns, so only the colours at its end tell."""
    frame = texture(3, 120)
    moved = np.roll(frame, (3, 3), axis=(0, 1))
    flow, backward = np.full((*SIZE, 2), 3.0, np.float32), np.full((*SIZE, 2), -3.0, np.float32)
    hole, end = np.s_[40:46, 60:66], np.s_[18:28, 38:48]
    flow[hole], backward[end] = -20.0, 20.0
    moved[end] = 255, 0, 0
    sharp = sharpen(flow, backward, frame, moved)
    assert np.abs(sharp[hole] - 3.0).max() < 0.5


def test_constant_flow_is_unchanged():
    flow = np.broadcast_to(np.float32([2.5, -1.5]), (*SIZE, 2)).copy()
    sharp = sharpen(flow, -flow, texture(1, 128), texture(2, 128))
    np.testing.assert_allclose(sharp, flow, rtol=1e-5)


def test_a_pair_of_still_frames_of_one_colour_has_finite_flow():
    plain = np.full((*SIZE, 3), 90, np.uint8)
    noise = np.random.default_rng(0).normal(0, 30, (2, *SIZE, 2)).astype(np.float32)
    assert np.isfinite(sharpen(*noise, plain, plain)).all()

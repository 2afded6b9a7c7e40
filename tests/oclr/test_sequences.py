"""Layers of a sequence: a channel stays with its object, whatever the order in each window."""

import dataclasses

import numpy as np
import pytest

from oclr_jax.oclr.predict import Segmenter, overlap_of
from oclr_jax.oclr.sequences import predict_sequence
from tests.clips import INFO

H, W = INFO.model.height, INFO.model.width


def flow_of(frames: int) -> np.ndarray:
    """Two squares, one to the right and one to the left; the value of u tells the frame's number.

    |u| is 1 + number / 100 inside the squares.
    """
    flow = np.zeros((frames, H, W, 4), np.float32)
    for t in range(frames):
        flow[t, 4:12, 4:14, 0] = 1 + t / 100
        flow[t, 18:28, 30:44, 0] = -1 - t / 100
    return flow


def shuffling_segmenter() -> tuple[Segmenter, list[int]]:
    """A model that answers each window with its layers in another order."""
    starts: list[int] = []

    def predict(_, flow):
        u = flow[..., 0]
        layers = np.stack([u > 0.5, u < -0.5, u > 1e9], axis=-1).astype(np.float32)
        # The first frame of the window, as a part of every probability.
        start = round(100 * (float(u[0, 0, 8, 8]) - 1))
        starts.append(start)
        change = np.roll([0, 1, 2], len(starts))
        order = np.array([[0.0, 1.0, 2.0]], np.float32)
        return (0.9 * layers + start / 1000)[..., change], order[:, change]

    return Segmenter(params=None, info=INFO, predict=predict), starts


@pytest.mark.parametrize("frames", [3, 6, 7, 16, 23])
def test_layers_are_aligned_between_windows(frames):
    segmenter, starts = shuffling_segmenter()
    probability, order = predict_sequence(segmenter, flow_of(frames))
    assert probability.shape == (frames, H, W, 3) and order.shape == (frames, 3)
    found = probability > 0.5
    # The first window has the layers rolled by one, and all others follow it.
    assert found[:, 8, 8].tolist() == [[False, True, False]] * frames
    assert found[:, 20, 40].tolist() == [[False, False, True]] * frames
    assert order.tolist() == [[2.0, 0.0, 1.0]] * frames
    # Every window has the frames from the middle of what it shares with the one before.
    size, overlap = INFO.model.frames, overlap_of(INFO.model)
    assert all(b - a <= size - overlap for a, b in zip(starts[:-1], starts[1:], strict=True))
    source = np.rint(1000 * probability[:, 0, 0, 0]).astype(int)
    expected = np.zeros(frames, int)
    for before, start in zip([None, *starts[:-1]], starts, strict=True):
        shared = 0 if before is None else before + size - start
        expected[start + shared // 2 :] = start
    assert source.tolist() == expected.tolist()


def test_a_model_of_one_gap():
    info = dataclasses.replace(INFO, model=dataclasses.replace(INFO.model, gaps=(1,)))
    segmenter, _ = shuffling_segmenter()
    segmenter = dataclasses.replace(segmenter, info=info)
    assert predict_sequence(segmenter, flow_of(8)[..., :2])[0].shape == (8, H, W, 3)

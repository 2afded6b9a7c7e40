"""Clips of moving squares, whose flow and masks are exact."""

import numpy as np

from data_pipelines.loaders.clip_transforms import FlowClip

T, H, W, K = 4, 24, 32, 3
# A zoom and a pan, the same from each frame to the next.
CAMERA = np.broadcast_to(np.float32([[1.0, 0.5, 0.0], [-0.5, 0.0, 0.5]]), (T + 1, 2, 3))


def moving_squares(motions: list[tuple[int, int]]) -> FlowClip:
    """Squares that move by (u, v) whole pixels a frame over a resting background; front first."""
    flow = np.zeros((T, H, W, 4), np.float32)
    amodal = np.zeros((T, H, W, K), np.uint8)
    modal = np.zeros((T, H, W, K), np.uint8)
    for t in range(T):
        hidden = np.zeros((H, W), bool)
        for k, (u, v) in enumerate(motions):
            top, left = 9 + v * t, 10 + 4 * k + u * t
            amodal[t, top : top + 6, left : left + 6, k] = 1
            seen = (amodal[t, ..., k] == 1) & ~hidden
            modal[t, seen, k] = 1
            flow[t, seen] = u, v, -u, -v
            hidden |= seen
    return FlowClip(flow=flow, amodal=amodal, modal=modal)


def assert_equal(one: FlowClip, other: FlowClip) -> None:
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])

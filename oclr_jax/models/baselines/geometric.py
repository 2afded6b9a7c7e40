"""The geometric baseline: what does not move with the camera, without any learning.

A homography is fitted to the flow of a frame with RANSAC. Otsu's threshold splits the flow that it
leaves unexplained in two, and the largest connected component of the larger values is the object.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

_STRIDE = 4  # pixels between the points that the homography is fitted to
_INLIER = 0.5  # pixels; largest error of a point that moves with the camera
_LEVELS = 255


@dataclass(frozen=True)
class GeometricConfig:
    """The input of the baseline, with the fields that every model of flow has."""

    frames: int = 30
    height: int = 128
    width: int = 224
    gaps: tuple[int, ...] = (1, -1)
    queries: int = 1  # layers
    order_from: str = "single layer"


def predict_geometric(
    params: Any, flow: Float32[np.ndarray, "b t h w c"]
) -> tuple[Float32[np.ndarray, "b t h w 1"], Float32[np.ndarray, "b 1"]]:
    """Returns the layer of each window, 0 or 1, and its pseudo-depth, 0.

    Args:
      params: not used; every model takes them.
      flow: (u, v) per gap, in pixels.
    """
    del params
    masks = [[moving_object(frame) for frame in window] for window in flow]
    layers = np.array(masks, np.float32)[..., None]
    return layers, np.zeros((len(flow), 1), np.float32)


def moving_object(flow: Float32[np.ndarray, "h w c"]) -> Bool[np.ndarray, "h w"]:
    """The object in one frame; empty where the camera explains all flow.

    The unexplained flow is averaged over the gaps.
    """
    h, w, channels = flow.shape
    left = [unexplained_flow(flow[..., c : c + 2]) for c in range(0, channels, 2)]
    length = np.mean(left, axis=0)
    largest = length.max()
    if largest < 1e-3:
        return np.zeros((h, w), bool)
    levels = np.round(length / largest * _LEVELS).astype(np.uint8)
    _, split = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(split)
    if count == 1:
        return np.zeros((h, w), bool)
    return labels == 1 + statistics[1:, cv2.CC_STAT_AREA].argmax()


def unexplained_flow(flow: Float32[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w"]:
    """Length of the flow less that of the homography that fits most of it, in pixels."""
    h, w, _ = flow.shape
    at = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).astype(np.float32)
    some = slice(_STRIDE // 2, None, _STRIDE)
    source = at[some, some].reshape(-1, 2)
    target = source + flow[some, some].reshape(-1, 2)
    homography = None
    if len(source) >= 4:
        homography, _ = cv2.findHomography(source, target, cv2.RANSAC, _INLIER)
    if homography is None:  # no four points agree: take the camera for still
        homography = np.eye(3)
    moved = cv2.perspectiveTransform(at.reshape(1, -1, 2), homography).reshape(h, w, 2)
    return np.linalg.norm(at + flow - moved, axis=-1)

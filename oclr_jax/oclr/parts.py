"""Joins layers of a window that are parts of one object: they touch, and move alike throughout.

The flow model sometimes finds one thing as two layers, such as the neck and the body of a swan. Two
things touch for as long only where one moves in front of the other, and then they move differently.
Things that do move as one, such as a horse and its rider, are one moving object.
"""

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from oclr_jax.oclr.strands import MIN_ALONE, WindowLayers

# Two layers are parts of one object if, of the frames of the one that has more, both are in at
# least this share, and in at least so many frames; ...
MIN_SHARED, MIN_FRAMES = 0.85, 8
# ... if their amodal masks overlap or adjoin in at least this share of the frames with both; ...
MIN_TOUCHING = 0.7
# ... and if their motions differ by at most this share of their lengths, camera motion left out.
MAX_DIFFERENCE = 0.1
# On the four development sequences, 60 rendered clips and two everyday videos, with the weights of
# the package, this joins the two parts of the swan alone, whose motions differ by 0.08 and 0.06 in
# its two windows. Others that touch, and whose motions are known, differ by at least 0.12.

# A camera's motion is fitted to the background if it is at least this share of the frame.
MIN_BACKGROUND = 0.05


def join_parts(window: WindowLayers) -> WindowLayers:
    """Joins the layers of a window that are parts of one object.

    The object takes the place and the pseudo-depth of its largest part, and at each pixel the
    highest probability of its parts; the layers of the others become empty.
    """
    masks = window.probability > 0.5
    present = [layer for layer in range(masks.shape[-1]) if masks[..., layer].any()]
    if window.flow is None or len(present) < 2:
        return window
    motions = layer_motions(window.flow, masks)
    into = {layer: layer for layer in present}
    for one, other in combinations(present, 2):
        if _are_one(masks[..., (one, other)], motions[:, (one, other)]):
            into = {
                layer: into[one] if root == into[other] else root for layer, root in into.items()
            }
    probability = window.probability.copy()
    for root in set(into.values()):
        parts = [layer for layer in present if into[layer] == root]
        largest = max(parts, key=lambda layer: np.count_nonzero(masks[..., layer]))
        probability[..., parts] = 0
        probability[..., largest] = window.probability[..., parts].max(axis=-1)
    return replace(window, probability=probability)


def layer_motions(
    flow: Float32[np.ndarray, "t h w c"], amodal: Bool[np.ndarray, "t h w k"]
) -> Float32[np.ndarray, "t k c"]:
    """Median flow of each layer in each frame less the camera's motion, in pixels of the flow.

    It is that of the pixels that no other layer covers, since layers that share their pixels move
    alike whatever they are. The camera's is an affine motion fitted outside all layers. NaN where
    less than MIN_ALONE of a layer, or less than MIN_BACKGROUND of the frame, is left for the fit.
    """
    motions = np.full((len(flow), amodal.shape[-1], flow.shape[-1]), np.nan, np.float32)
    for field, whole, found in zip(flow, amodal, motions, strict=True):
        covered = whole.sum(axis=-1)
        if np.count_nonzero(covered == 0) < MIN_BACKGROUND * covered.size:
            continue
        moving = _without_camera(field, covered == 0)
        for layer in np.flatnonzero(whole.any(axis=(0, 1))):
            alone = whole[..., layer] & (covered == 1)
            if np.count_nonzero(alone) >= MIN_ALONE * np.count_nonzero(whole[..., layer]):
                found[layer] = np.median(moving[alone], axis=0)
    return motions


def _without_camera(
    flow: Float32[np.ndarray, "h w c"], background: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w c"]:
    """Flow less an affine motion fitted to the background."""
    y, x = np.indices(background.shape, np.float32)
    places = np.stack([np.ones_like(x), x, y], -1)
    fitted = np.linalg.lstsq(places[background], flow[background], rcond=None)[0]
    return flow - places @ fitted


def _are_one(masks: Bool[np.ndarray, "t h w 2"], motions: Float32[np.ndarray, "t 2 c"]) -> bool:
    there = masks.any(axis=(1, 2))
    known = there.all(axis=1) & ~np.isnan(motions).any(axis=(1, 2))
    if known.sum() < max(MIN_SHARED * there.sum(axis=0).max(), MIN_FRAMES):
        return False
    lengths = np.linalg.norm(motions[known], axis=-1).sum(axis=1)
    apart = np.linalg.norm(motions[known, 0] - motions[known, 1], axis=-1)
    if apart.mean() > MAX_DIFFERENCE * lengths.mean():
        return False
    touching = [_touch(mask[..., 0], mask[..., 1]) for mask in masks[there.all(axis=1)]]
    return float(np.mean(touching)) >= MIN_TOUCHING


def _touch(one: Bool[np.ndarray, "h w"], other: Bool[np.ndarray, "h w"]) -> bool:
    """Whether a pixel of one mask is a pixel of the other, or one of its eight neighbours."""
    grown = cv2.dilate(one.astype(np.uint8), np.ones((3, 3), np.uint8))
    return bool((grown.astype(bool) & other).any())

"""Segmentation metrics in numpy, equal to those of the official evaluators."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt8
from scipy.optimize import linear_sum_assignment

# Box IoU above which a detection on MoCA is a success.
SUCCESS_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class Statistics(NamedTuple):
    """Statistics of a metric over the frames of one object."""

    mean: float
    recall: float  # fraction of frames above 0.5
    decay: float  # mean of the first quarter minus mean of the last quarter


def jaccard(
    predicted: Bool[np.ndarray, "*n h w"],
    truth: Bool[np.ndarray, "*n h w"],
    void: Bool[np.ndarray, "*n h w"] | None = None,
) -> Float64[np.ndarray, "*n"]:
    """Region similarity J of each frame: IoU, 1 if both masks are empty.

    `void` pixels do not count. Perazzi et al., "A Benchmark Dataset and Evaluation Methodology
    for Video Object Segmentation", section 4.
    """
    shared, joint = predicted & truth, predicted | truth
    if void is not None:
        shared, joint = shared & ~void, joint & ~void
    both, either = _areas(shared), _areas(joint)
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def _areas(masks: Bool[np.ndarray, "*n h w"]) -> Int[np.ndarray, "*n"]:
    # Mask by mask: counting along axes sums integers in numpy, which is ten times as slow.
    *batch, height, width = masks.shape
    counts = [np.count_nonzero(mask) for mask in masks.reshape(-1, height, width)]
    return np.array(counts, np.int64).reshape(batch)


def present_ids(ids: UInt8[np.ndarray, "*shape"]) -> list[int]:
    """The sorted ids that occur, without 0."""
    # OpenCV counts bytes directly; numpy would convert them to 64-bit integers first.
    counts = cv2.calcHist([ids.reshape(1, -1)], [0], None, [256], [0, 256])
    return [int(id) for id in np.flatnonzero(counts) if id]


def statistics(values: Float64[np.ndarray, "t"]) -> Statistics:
    """Mean, recall and decay of a metric over the frames of one object, t >= 1.

    As in the DAVIS evaluators, quarters share their border frames and their ends are rounded. (The
    official code stores the ends in 8 bits, so its decay is wrong beyond 256 frames.)
    """
    count = len(values)
    ends = np.round(np.linspace(1, count, 5) + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    return Statistics(
        float(values.mean()), float((values > 0.5).mean()), float(first.mean() - last.mean())
    )


def assign(similarity: Float64[np.ndarray, "n m"]) -> list[tuple[int, int]]:
    """Pairs (row, column) of the one-to-one assignment with the largest total similarity."""
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]


def border_share(mask: Bool[np.ndarray, "h w"]) -> float:
    """Fraction of the pixels on the image border that a mask covers."""
    height, width = mask.shape
    covered = mask[0].sum() + mask[-1].sum() + mask[1:-1, 0].sum() + mask[1:-1, -1].sum()
    return float(covered / (2 * height + 2 * width - 4))


def detected_box(mask: Bool[np.ndarray, "h w"]) -> tuple[int, int, int, int] | None:
    """Box (left, top, right, bottom) of a foreground mask, as in the MoCA evaluator.

    A mask that covers more than half of the image border is inverted. The result is the largest box
    around a connected component, or None for an empty mask.
    """
    foreground = ~mask if border_share(mask) > 0.5 else mask
    contours, _ = cv2.findContours(
        foreground.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    if not contours:
        return None
    left, top, width, height = max(map(cv2.boundingRect, contours), key=lambda box: box[2] * box[3])
    return left, top, left + width, top + height


def box_iou(one: Sequence[float | int], other: Sequence[float | int]) -> float:
    """IoU of two boxes (left, top, right, bottom), in pixels."""
    left, top, right, bottom = *map(max, one[:2], other[:2]), *map(min, one[2:], other[2:])
    both = max(right - left, 0) * max(bottom - top, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(both / (sum(areas) - both)) if both else 0.0


def success_rates(overlaps: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "5"]:
    """Fraction of detections with IoU above 0.5, 0.6, 0.7, 0.8 and 0.9; NaN without detections.

    First paper, section 4.2 (MoCA), whose tables give the mean of the five.
    """
    if not overlaps.size:
        return np.full(len(SUCCESS_THRESHOLDS), np.nan)
    return (overlaps[:, None] > np.array(SUCCESS_THRESHOLDS)).mean(axis=0)


def order_accuracy(
    depth: Float[np.ndarray, "k"],
    true_depth: Int[np.ndarray, "k"],
    true_amodal: Bool[np.ndarray, "t h w k"],
) -> tuple[int, int]:
    """(correctly ordered pairs, pairs) over all pairs of objects that overlap in any frame.

    Predicted and true objects are matched: index k is the same object in all arguments. Depths are
    lowest in front. Overlap is that of the true amodal masks. This is the accuracy that belongs to
    the loss in equation 4 of the first paper.
    """
    right = pairs = 0
    for one, other in combinations(range(len(depth)), 2):
        if (true_amodal[..., one] & true_amodal[..., other]).any():
            pairs += 1
            right += (depth[one] < depth[other]) == (true_depth[one] < true_depth[other])
    return int(right), pairs

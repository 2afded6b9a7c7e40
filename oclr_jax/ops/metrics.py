"""Measures of segmentation quality, in numpy, equal to the official evaluators."""

import numpy as np
from jaxtyping import Bool, Float64
from scipy.optimize import linear_sum_assignment


def jaccard(
    predicted: Bool[np.ndarray, "*n h w"], truth: Bool[np.ndarray, "*n h w"]
) -> Float64[np.ndarray, "*n"]:
    """Region similarity J of each frame: intersection over union, 1 where both are empty.

    Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation",
    section 4.
    """
    both = np.count_nonzero(predicted & truth, axis=(-2, -1))
    either = np.count_nonzero(predicted | truth, axis=(-2, -1))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def assign(similarity: Float64[np.ndarray, "n m"]) -> list[tuple[int, int]]:
    """Pairs (row, column) of the one-to-one assignment with the largest total similarity."""
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns, strict=True)]

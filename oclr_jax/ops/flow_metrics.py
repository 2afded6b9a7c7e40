"""Errors of optical flow: against ground truth, and photometric, without ground truth."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

# KITTI 2015: an outlier has an error above 3 px and above 5% of the true length.
OUTLIER_PIXELS = 3.0
OUTLIER_SHARE = 0.05


def end_point_error(
    flow: Float[np.ndarray, "*b h w 2"],
    truth: Float[np.ndarray, "*b h w 2"],
    valid: Bool[np.ndarray, "*b h w"] | None = None,
) -> float:
    """Mean end-point error in pixels over the `valid` pixels (default: all); NaN for none."""
    return _mean(_distance(flow, truth), valid)


def fl_all(
    flow: Float[np.ndarray, "*b h w 2"],
    truth: Float[np.ndarray, "*b h w 2"],
    valid: Bool[np.ndarray, "*b h w"] | None = None,
) -> float:
    """Outliers in percent of the `valid` pixels (default: all); NaN for none.

    An outlier has an error above 3 px and above 5% of the true length (Fl-all of Menze and Geiger,
    CVPR 2015).
    """
    error = _distance(flow, truth)
    length = np.linalg.norm(truth.astype(np.float64), axis=-1)
    return 100 * _mean((error > OUTLIER_PIXELS) & (error > OUTLIER_SHARE * length), valid)


def photometric_error(
    first: UInt8[np.ndarray, "h w 3"],
    second: UInt8[np.ndarray, "h w 3"],
    flow: Float32[np.ndarray, "h w 2"] | None = None,
) -> float:
    """Mean absolute difference in grey levels (0 to 255) between `first` and `second`.

    With `flow` from `first` to `second`, in pixels, `second` is warped to `first` bilinearly, with
    border values outside the frame.
    """
    here, there = (
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32) for frame in (first, second)
    )
    if flow is not None:
        y, x = np.indices(here.shape, np.float32)
        there = cv2.remap(
            there, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
        )
    return float(np.abs(there - here).mean())


def _distance(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.linalg.norm(flow.astype(np.float64) - truth, axis=-1)


def _mean(values: np.ndarray, valid: np.ndarray | None) -> float:
    values = values if valid is None else values[valid]
    return float(values.mean()) if values.size else float("nan")

"""How good flow is: against the truth, and, without one, by how well it explains the frames."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

# KITTI 2015: a vector is wrong whose error is over 3 px and over 5% of the true length.
OUTLIER_PIXELS = 3.0
OUTLIER_SHARE = 0.05


def end_point_error(
    flow: Float[np.ndarray, "*b h w 2"],
    truth: Float[np.ndarray, "*b h w 2"],
    valid: Bool[np.ndarray, "*b h w"] | None = None,
) -> float:
    """Mean distance in pixels between estimated and true vectors, over the `valid` pixels (all by
    default); NaN where there are none."""
    return _mean(_distance(flow, truth), valid)


def fl_all(
    flow: Float[np.ndarray, "*b h w 2"],
    truth: Float[np.ndarray, "*b h w 2"],
    valid: Bool[np.ndarray, "*b h w"] | None = None,
) -> float:
    """Share of wrong vectors in percent, over the `valid` pixels; NaN where there are none.

    Wrong is an error above 3 px that is also above 5% of the true length (Menze and Geiger, CVPR
    2015, the measure Fl-all).
    """
    error = _distance(flow, truth)
    length = np.linalg.norm(truth.astype(np.float64), axis=-1)
    return 100 * _mean((error > OUTLIER_PIXELS) & (error > OUTLIER_SHARE * length), valid)


def photometric_error(
    first: UInt8[np.ndarray, "h w 3"],
    second: UInt8[np.ndarray, "h w 3"],
    flow: Float32[np.ndarray, "h w 2"] | None = None,
) -> float:
    """Mean difference in grey levels (0..255) between `first` and `second`.

    With `flow` from `first` to `second`, in pixels, `second` is first pulled back along it,
    bilinearly; what comes from outside the frame takes the border's value.
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

"""The interface of optical-flow estimators, and the check of their output."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.errors import UserError


@runtime_checkable
class FlowEstimator(Protocol):
    """Estimates the optical flow between pairs of frames; see CONTRIBUTING.md for how to add one.

    Estimators are immutable, can be pickled, and give the same flow for the same frames.
    """

    # Number of frames whose flow is best requested in one call.
    batch: int

    def __call__(
        self, first: UInt8[np.ndarray, "n h w 3"], second: UInt8[np.ndarray, "n h w 3"]
    ) -> Float32[np.ndarray, "n H W 2"]:
        """Flow that takes each pixel of `first` to `second` (RGB).

        (u, v) = (right, down), in pixels of the working grid H x W, which is `working_size(h, w)`.
        """
        ...

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the working grid for frames of `height` x `width`."""
        ...

    def settings(self) -> dict[str, Any]:
        """JSON values from which `source.from_settings` builds the same estimator."""
        ...


def estimate(
    estimator: FlowEstimator,
    first: UInt8[np.ndarray, "n h w 3"],
    second: UInt8[np.ndarray, "n h w 3"],
) -> Float32[np.ndarray, "n H W 2"]:
    """The estimator's flow from `first` to `second`, checked.

    Raises:
      UserError: a value is not finite.
    """
    flow = estimator(first, second)
    if not np.isfinite(flow).all():
        raise UserError(
            f"The flow estimator {estimator.settings()} returned values that are not finite; "
            "use other weights, another estimator, or --precision float32."
        )
    return flow

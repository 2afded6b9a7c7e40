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


@runtime_checkable
class TwoWayEstimator(FlowEstimator, Protocol):
    """An estimator that makes the flow of a pair from the flows in both directions.

    `estimator(first, second)` is `combine` of the flows `one_way(first, second)` and
    `one_way(second, first)`. Who needs flow in both directions estimates each only once.
    """

    def one_way(
        self, first: UInt8[np.ndarray, "n h w 3"], second: UInt8[np.ndarray, "n h w 3"]
    ) -> Float32[np.ndarray, "n H W 2"]:
        """What is estimated in one direction, as `FlowEstimator`."""
        ...

    def combine(
        self,
        flow: Float32[np.ndarray, "n H W 2"],
        backward: Float32[np.ndarray, "n H W 2"],
        first: UInt8[np.ndarray, "n h w 3"],
        second: UInt8[np.ndarray, "n h w 3"],
    ) -> Float32[np.ndarray, "n H W 2"]:
        """The flow from `first` to `second`, of that and of the flow from `second` to `first`."""
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
    return check_finite(estimator, estimator(first, second))


def check_finite(
    estimator: FlowEstimator, flow: Float32[np.ndarray, "n H W 2"]
) -> Float32[np.ndarray, "n H W 2"]:
    """The same flow. Raises UserError if a value is not finite."""
    if not np.isfinite(flow).all():
        raise UserError(
            f"The flow estimator {estimator.settings()} returned values that are not finite; "
            "use other weights, another estimator, or --precision float32."
        )
    return flow

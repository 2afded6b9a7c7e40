"""The interface of optical-flow estimators."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8


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

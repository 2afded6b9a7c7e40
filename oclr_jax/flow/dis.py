"""DIS, the flow estimator of OpenCV that needs no weights."""

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.flow.sharpen import sharpen
from oclr_jax.video.resize import resize_image


@dataclass(frozen=True)
class _Search:
    """Parameters of the search: those of OpenCV's own presets, and of a finer one."""

    finest_scale: int  # the flow is computed on the working grid halved this many times
    patch_stride: int  # pixels between the 8x8 patches
    descent_steps: int  # gradient steps of each patch
    refinement_steps: int  # iterations of the variational refinement on each scale

    def create(self) -> cv2.DISOpticalFlow:
        search = cv2.DISOpticalFlow.create()
        search.setFinestScale(self.finest_scale)
        search.setPatchSize(8)
        search.setPatchStride(self.patch_stride)
        search.setGradientDescentIterations(self.descent_steps)
        search.setVariationalRefinementIterations(self.refinement_steps)
        return search


DIS_PRESETS = {
    "ultrafast": _Search(finest_scale=2, patch_stride=4, descent_steps=12, refinement_steps=0),
    "fast": _Search(finest_scale=2, patch_stride=4, descent_steps=16, refinement_steps=5),
    "medium": _Search(finest_scale=1, patch_stride=3, descent_steps=25, refinement_steps=5),
    "fine": _Search(finest_scale=0, patch_stride=4, descent_steps=12, refinement_steps=5),
}


@dataclass(frozen=True)
class DIS:
    """Dense inverse search (Kroeger et al., ECCV 2016), as implemented in OpenCV.

    The flow does not depend on the number of threads.
    """

    height: int = 256  # rows of the working grid; frames are stretched to it
    width: int = 448  # columns of the working grid
    preset: str = "fine"  # ultrafast, fast, medium or fine

    # Larger batches would save DIS nothing.
    batch: ClassVar[int] = 1

    def __post_init__(self):
        if self.preset not in DIS_PRESETS:
            raise UserError(
                f"DIS has no preset {self.preset!r}; choose one of {', '.join(DIS_PRESETS)}."
            )
        if min(self.height, self.width) < 16:
            raise UserError(
                f"DIS cannot work on {self.height}x{self.width} pixels; use at least 16x16."
            )

    def __call__(
        self, first: UInt8[np.ndarray, "n h w 3"], second: UInt8[np.ndarray, "n h w 3"]
    ) -> Float32[np.ndarray, "n H W 2"]:
        """Flow from `first` to `second` (RGB), in pixels of the working grid."""
        # One OpenCV object per call: it holds buffers, so threads must not share it.
        search = DIS_PRESETS[self.preset].create()
        flow = np.empty((len(first), self.height, self.width, 2), np.float32)
        for index, (here, there) in enumerate(zip(first, second, strict=True)):
            flow[index] = search.calc(self._grey(here), self._grey(there), None)
        return flow

    def settings(self) -> dict[str, Any]:
        """As `FlowEstimator`."""
        return {
            "estimator": "dis",
            "preset": self.preset,
            "height": self.height,
            "width": self.width,
        }

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """As `FlowEstimator`; the same for frames of any size."""
        return self.height, self.width

    def _grey(self, frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W"]:
        return cv2.cvtColor(resize_image(frame, self.height, self.width), cv2.COLOR_RGB2GRAY)


@dataclass(frozen=True)
class SharpDIS(DIS):
    """DIS in both directions, with motion boundaries that follow those of colour; see `sharpen`."""

    def __call__(
        self, first: UInt8[np.ndarray, "n h w 3"], second: UInt8[np.ndarray, "n h w 3"]
    ) -> Float32[np.ndarray, "n H W 2"]:
        """Flow from `first` to `second` (RGB), in pixels of the working grid."""
        flows = self.one_way(first, second), self.one_way(second, first)
        return self.combine(*flows, first, second)

    def one_way(
        self, first: UInt8[np.ndarray, "n h w 3"], second: UInt8[np.ndarray, "n h w 3"]
    ) -> Float32[np.ndarray, "n H W 2"]:
        """The flow of DIS from `first` to `second`."""
        return super().__call__(first, second)

    def combine(
        self,
        flow: Float32[np.ndarray, "n H W 2"],
        backward: Float32[np.ndarray, "n H W 2"],
        first: UInt8[np.ndarray, "n h w 3"],
        second: UInt8[np.ndarray, "n h w 3"],
    ) -> Float32[np.ndarray, "n H W 2"]:
        """As `TwoWayEstimator`."""
        size = self.height, self.width
        sharp = np.empty_like(flow)
        for index, (here, there) in enumerate(zip(first, second, strict=True)):
            images = resize_image(here, *size), resize_image(there, *size)
            sharp[index] = sharpen(flow[index], backward[index], *images)
        return sharp

    def settings(self) -> dict[str, Any]:
        """As `FlowEstimator`."""
        return {**super().settings(), "estimator": "dis-sharp"}

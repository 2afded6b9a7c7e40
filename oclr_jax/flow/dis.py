"""Optical-flow estimators behind one signature: pairs of frames in, their flow out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.video.resize import resize_image

# (first [n h w 3] RGB, second [n h w 3] RGB) -> flow [n H W 2] that takes each pixel of `first` to
# `second`: (u, v) = (right, down), in pixels of the estimator's own working grid H x W.
PairEstimator = Callable[
    [UInt8[np.ndarray, "n h w 3"], UInt8[np.ndarray, "n h w 3"]], Float32[np.ndarray, "n H W 2"]
]


@dataclass(frozen=True)
class _Search:
    """How thoroughly DIS searches; the numbers of OpenCV's own presets and one finer than they."""

    finest_scale: int  # the flow's own grid is the working grid halved this many times
    patch_stride: int  # pixels between the 8x8 patches
    descent_steps: int  # gradient steps of each patch
    refinement_steps: int  # steps of the variational refinement on each scale

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
    """Dense inverse search of OpenCV (Kroeger et al., ECCV 2016): no weights, no download.

    The same frames give the same bytes, whatever the number of threads.
    """

    height: int = 256  # rows of the working grid; frames are stretched to it
    width: int = 448  # columns of the working grid
    preset: str = "fine"  # ultrafast, fast, medium or fine: cost against detail

    # Frames whose flow is best asked for in one call; more of them save DIS nothing.
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
        """Flow from `first` to `second` (RGB) on the working grid, in its pixels."""
        # One OpenCV object per call: it holds buffers, and so must not be shared by threads.
        search = DIS_PRESETS[self.preset].create()
        flow = np.empty((len(first), self.height, self.width, 2), np.float32)
        for index, (here, there) in enumerate(zip(first, second, strict=True)):
            flow[index] = search.calc(self._grey(here), self._grey(there), None)
        return flow

    def settings(self) -> dict[str, Any]:
        """What `make_estimator` needs to build the same estimator again; stored with weights."""
        return {
            "estimator": "dis",
            "preset": self.preset,
            "height": self.height,
            "width": self.width,
        }

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the flow of frames of this size, whatever that is."""
        return self.height, self.width

    def _grey(self, frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W"]:
        return cv2.cvtColor(resize_image(frame, self.height, self.width), cv2.COLOR_RGB2GRAY)


ESTIMATORS = {"dis": DIS}


def make_estimator(settings: dict[str, Any]) -> PairEstimator:
    """Builds an estimator from its `settings()`; fields left out take their defaults.

    Raises UserError for an unknown estimator name, field or value.
    """
    fields = dict(settings)
    name = fields.pop("estimator", None)
    if name not in ESTIMATORS:
        raise UserError(
            f"There is no flow estimator {name!r}; choose one of {', '.join(ESTIMATORS)}."
        )
    try:
        return ESTIMATORS[name](**fields)
    except TypeError as error:
        raise UserError(
            f"The settings {settings} do not fit the flow estimator {name}: {error}."
        ) from error

"""Settings of the dense CRF, by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DEFAULT_PRESET = "default"


@dataclass(frozen=True)
class CRFSettings:
    """Two kernels and the unary energy. Lengths are in pixels, colours in 0..255."""

    spatial_sigma: float  # of the smoothness kernel; 0: without this kernel
    spatial_weight: float
    bilateral_sigma: float  # of the appearance kernel, in space
    color_sigma: float
    bilateral_weight: float
    iterations: int
    # What the unary energy is made of: the probabilities; their softmax, as in programs that take
    # masks for logits; or 0.8 for the most likely label.
    unary: Literal["probability", "softmax", "label"] = "probability"
    floor: float = 1e-5  # smallest probability
    peak: bool = False  # whether the foreground is divided by its maximum in the frame


CRF_PRESETS: Mapping[str, CRFSettings] = {
    # The best of twelve settings on rendered clips with photographs as textures.
    DEFAULT_PRESET: CRFSettings(3.0, 3.0, 50.0, 10.0, 5.0, 5, unary="softmax"),
    # CIS (192x384 and 480x854), TokenCut and MaskCut, LOCATE, MP-Net; a DAVIS2016 helper.
    "cis-small": CRFSettings(0.0, 0.0, 25.0, 5.0, 5.0, 50, floor=1e-6, peak=True),
    "cis": CRFSettings(0.0, 0.0, 60.0, 5.0, 5.0, 50, floor=1e-6, peak=True),
    "tokencut": CRFSettings(3.0, 7.0, 50.0, 5.0, 10.0, 10, unary="softmax"),
    "locate": CRFSettings(1.0, 3.0, 67.0, 3.0, 4.0, 10, unary="softmax"),
    "mp-net": CRFSettings(3.0, 3.0, 50.0, 10.0, 5.0, 5),
    "labels": CRFSettings(0.0, 0.0, 25.0, 5.0, 5.0, 10, unary="label"),
}

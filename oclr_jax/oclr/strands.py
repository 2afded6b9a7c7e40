"""Strands: layers linked from window to window, and what is observed of them in each frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float16, Float32, Int, UInt8
from scipy.ndimage import convolve1d

from oclr_jax.tracks import StoredMask, StoredProbability, modal_layers

# Bins per colour channel of a histogram.
LEVELS = 6
# See `Observation`.
MIN_ALONE = 0.35
# A layer is shown in a frame if at least this share of its mask is; see `Observation.shown`.
MIN_SHOWN = 0.35
# A mask shows what another one shows if it covers at least this share of it.
MIN_COVER = 0.6
# An object is recognised by at least this many consecutive frames of a layer.
MIN_PIECE = 3


@dataclass(frozen=True)
class WindowLayers:
    """The model's output for one window and the frames of the window, on the model grid."""

    shot: int  # windows of different shots never share objects
    start: int  # index of the window's first frame in the video
    probability: Float[np.ndarray, "t h w k"]  # amodal foreground
    order: Float[np.ndarray, "k"]  # pseudo-depth, lowest in front
    images: UInt8[np.ndarray, "t h w 3"]  # RGB
    # Its input, pixels; without it nothing is known of how the layers move.
    flow: Float32[np.ndarray, "t h w c"] | None = None


class Observation(NamedTuple):
    """One layer in one frame; lengths in pixels of the model grid.

    x, y: centre of the amodal mask. area: of the amodal mask. shown: area of its part that no other
    layer covers, which shows this layer even if the predicted depth order is wrong; or, if that is
    less than MIN_ALONE of the mask, of its visible part by the predicted order. colours: colour
    histogram of that part, of sum 1, or 0 if it is empty.
    """

    x: float
    y: float
    area: float
    shown: float
    colours: Float16[np.ndarray, " bins"]

    @property
    def is_shown(self) -> bool:
        """Whether enough of the layer is shown to tell which object it shows."""
        return self.shown >= MIN_SHOWN * self.area


@dataclass
class Strand:
    """One layer of the model, linked over overlapping windows.

    A strand is not yet an object: the model may move a layer from one object to another.
    `amodal` and `seen` hold the frames in which the mask is not empty; `probability` is filled only
    if a file for probabilities is given to `link_windows`, and then in all frames of the windows.
    """

    shot: int
    amodal: dict[int, StoredMask] = field(default_factory=dict)
    seen: dict[int, Observation] = field(default_factory=dict)
    probability: dict[int, StoredProbability] = field(default_factory=dict)

    def continues(self, before: int, frame: int) -> bool:
        """Whether it moves by less than its own size per frame between two of its frames."""
        one, other = self.seen[before], self.seen[frame]
        distance = np.hypot(other.x - one.x, other.y - one.y) / (frame - before)
        return bool(distance < np.sqrt(min(one.area, other.area)))

    def forget(self, frames: range) -> None:
        """Removes all that is stored of these frames."""
        for stored in (self.amodal, self.seen, self.probability):
            for frame in frames:
                stored.pop(frame, None)


def observe(window: WindowLayers, index: int) -> list[Observation | None]:
    """Returns an observation of each layer in the window's frame `index`, None for empty masks."""
    amodal = window.probability[index] > 0.5
    covered = amodal.sum(axis=-1)
    modal = modal_layers(amodal[None], window.order)[0]
    bins = colour_bins(window.images[index])
    found: list[Observation | None] = []
    for layer in range(amodal.shape[-1]):
        rows, columns = np.nonzero(amodal[..., layer])
        if not rows.size:
            found.append(None)
            continue
        shown = amodal[..., layer] & (covered == 1)
        if np.count_nonzero(shown) < MIN_ALONE * rows.size:
            shown = modal[..., layer]
        found.append(
            Observation(
                x=float(columns.mean()),
                y=float(rows.mean()),
                area=float(rows.size),
                shown=float(np.count_nonzero(shown)),
                colours=colour_histogram(bins, shown),
            )
        )
    return found


def colour_bins(image: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """Returns the histogram bin of each pixel, 0 to LEVELS^3 - 1."""
    level = image.astype(np.int64) * LEVELS // 256
    return (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]


def colour_histogram(
    bins: Int[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]
) -> Float16[np.ndarray, " bins"]:
    """Returns the share of the mask's pixels in each bin, smoothed over neighbouring bins.

    Smoothing makes the histogram insensitive to small changes of brightness.
    """
    counts = np.bincount(bins[mask], minlength=LEVELS**3)
    cube = counts.reshape(LEVELS, LEVELS, LEVELS) / max(int(counts.sum()), 1)
    for axis in range(3):
        cube = convolve1d(cube, [0.25, 0.5, 0.25], axis, mode="nearest")
    return cube.ravel().astype(np.float16)


def covered_share(mask: Bool[np.ndarray, "h w"], cover: Bool[np.ndarray, "h w"]) -> float:
    """Returns the share of a mask that another one covers, 0 if it is empty."""
    return float(np.count_nonzero(mask & cover) / max(np.count_nonzero(mask), 1))


def mean_colours(seen: Sequence[Observation]) -> Float[np.ndarray, " bins"]:
    """Returns the mean colour histogram of at least one observation, weighted by pixels."""
    weights = np.array([one.shown for one in seen])
    colours = np.stack([one.colours for one in seen]).astype(np.float64)
    return weights @ colours / max(float(weights.sum()), 1.0)


def colour_distance(one: Float[np.ndarray, " bins"], other: Float[np.ndarray, " bins"]) -> float:
    """Returns the Hellinger distance of two histograms, 0 to 1; 0.5 if either is empty."""
    if not one.any() or not other.any():
        return 0.5
    return float(np.sqrt(max(0.0, 1.0 - np.sqrt(one.astype(np.float64) * other).sum())))

"""Refiners: what they are given, what they return, and which are installed."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.flow import FrameFlow
from oclr_jax.oclr.tta.config import VARIANTS as TTA_VARIANTS
from oclr_jax.refine.crf_settings import CRF_PRESETS, DEFAULT_PRESET
from oclr_jax.refine.feature_cache import FeatureCache, FeatureKey, video_digest
from oclr_jax.refine.sam_settings import SAM_WEIGHTS
from oclr_jax.storage import ArrayFile, StoredArray
from oclr_jax.tracks import StoredProbability, Track
from oclr_jax.video.clip import Clip, progress
from oclr_jax.video.resize import resize_image
from oclr_jax.weights.description import WeightsInfo


@dataclass(frozen=True)
class RefinerVideo:
    """What refiners see of a video, apart from its tracks.

    Frames that only repeat an earlier one are left out; they get its masks later. Frames and
    features are streamed. Flow and probabilities lie in a temporary file, of which one frame is
    read at a time. So memory does not grow with the length of the video.
    """

    clip: Clip  # name, size, frame count and shots
    gaps: tuple[int, ...]  # of the flow, in frames
    grid: tuple[int, int]  # (height, width) of the flow and of the tracks' amodal masks
    quiet: bool = True  # no progress bars
    feature_cache: FeatureCache = field(default_factory=FeatureCache)
    _arrays: ArrayFile = field(default_factory=ArrayFile)
    _flow: dict[int, StoredArray] = field(default_factory=dict)

    def frames(self, what: str) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """Streams the RGB frames from the first to the last, under a progress bar named `what`."""
        return progress(self.clip.frames(), what, self.clip.count, self.quiet)

    def flow(self, frame: int) -> Float32[np.ndarray, "h w c"] | None:
        """Flow of one frame on the model grid, (u, v) per gap of `gaps`, in pixels of the grid.

        Stored in float16. None in a shot that is too short to have flow at these gaps.
        """
        stored = self._flow.get(frame)
        return None if stored is None else stored.read().astype(np.float32)

    def store_probability(self, probability: Float[np.ndarray, "h w"]) -> StoredProbability:
        """Stores probabilities for `Track.modal_probability`, at any resolution."""
        return StoredProbability.encode(probability, self._arrays)

    def features(
        self,
        model: str,
        height: int,
        width: int,
        compute: Callable[[Iterator[UInt8[np.ndarray, "h w 3"]]], Iterable[np.ndarray]],
    ) -> Sequence[np.ndarray]:
        """Returns image features by frame number, from the cache or else computed.

        Args:
          model: names everything that the features depend on: architecture, weights, layer.
          height, width: size to which the frames are resized first.
          compute: takes the RGB frames and yields one array for each; all of one shape and dtype.
        """
        key = FeatureKey(self._digest, model, height, width)
        resized = (
            resize_image(frame, height, width) for frame in self.frames(f"features of {model}")
        )
        return self.feature_cache.get(key, lambda: compute(resized))

    def remember_flow(self, flows: Iterable[FrameFlow]) -> Iterator[FrameFlow]:
        """Passes on the flow of the video and stores it for `flow`."""
        for flow in flows:
            self._flow[flow.frame] = self._arrays.append(flow.flow.astype(np.float16))
            yield flow

    @property
    def probabilities(self) -> ArrayFile:
        """The file that holds the tracks' probabilities."""
        return self._arrays

    @cached_property
    def _digest(self) -> str:
        return video_digest(self.clip.frames())


@runtime_checkable
class Refiner(Protocol):
    """Improves the tracks of a video, after the flow model or another refiner.

    A refiner returns one track for each that it was given, in the same order and under the same
    id. It changes them by `dataclasses.replace`: it sets `modal` masks, `modal_probability` for
    the refiners after it, or both, in the frames that it refines. `amodal` stays as the flow model
    predicted it; `frame_masks` fits it to the modal mask. The input is `modal_probability` of a
    frame where a refiner before it set one, else `amodal_probability`.
    """

    name: str  # for --refine

    def settings(self) -> dict[str, Any]:
        """JSON values that the result depends on, recorded in objects.json and metrics.json."""
        ...

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """Returns the refined tracks."""
        ...


def _self_refiner() -> Refiner:
    from oclr_jax.refine.self_refiner import SelfRefiner

    return SelfRefiner()


def _open_select(weights: str | os.PathLike | None) -> Refiner:
    from oclr_jax.refine.select import Select

    return Select(weights)


def _open_correct(weights: str | os.PathLike | None) -> Refiner:
    from oclr_jax.refine.correct import Correct

    return Correct(weights)


def _open_adapt(weights: str | os.PathLike | None, reconstruction: bool = True) -> Refiner:
    from oclr_jax.refine.adapt import Adapt

    return Adapt(weights, reconstruction)


def _open_crf(preset: str) -> Refiner:
    from oclr_jax.refine.crf import CRF

    return CRF(preset)


def _open_tta(name: str) -> Refiner:
    from oclr_jax.refine.tta import open_tta

    return open_tta(name)


def _open_sam(name: str) -> Refiner:
    from oclr_jax.refine.sam import open_sam

    return open_sam(name)


# By name, what makes a refiner. It raises UserError if something that the refiner needs is missing.
REFINERS: dict[str, Callable[[], Refiner]] = {
    "self": _self_refiner,
    "crf": partial(_open_crf, DEFAULT_PRESET),
    **{f"crf:{name}": partial(_open_crf, name) for name in CRF_PRESETS if name != DEFAULT_PRESET},
    **{name: partial(_open_tta, name) for name in TTA_VARIANTS},
    **{name: partial(_open_sam, name) for name in SAM_WEIGHTS},
}
# The same for refiners with trained weights, from a folder of weights or None for the default ones.
TRAINED: dict[str, Callable[[str | os.PathLike | None], Refiner]] = {
    "select": _open_select,
    "correct": _open_correct,
    "adapt": _open_adapt,
    "adapt:no-reconstruction": partial(_open_adapt, reconstruction=False),
}
# Names for several refiners one after the other.
COMBINED = {"appearance": ("select", "correct")}
# Those that are applied unless others, or none, are asked for.
DEFAULT_REFINERS: tuple[str, ...] = ("self",)


def open_refiners(
    names: Sequence[str] | None, weights: str | os.PathLike | None = None
) -> list[Refiner]:
    """Makes the refiners of these names, in their order; None for DEFAULT_REFINERS.

    Args:
      names: keys of `REFINERS`, `TRAINED` and `COMBINED`.
      weights: folder with the weights of those in `TRAINED`; None for the default ones.

    Raises:
      UserError: a name is unknown, another refiner than SAM follows a CRF, something that a
        refiner needs is missing, or no refiner uses the weights.
    """
    names = DEFAULT_REFINERS if names is None else names
    known = [*REFINERS, *TRAINED, *COMBINED]
    for name in names:
        if name not in known:
            raise UserError(
                f"There is no refiner {name!r}; choose from {', '.join(known)}, or none."
            )
    for place, name in enumerate(names):
        after = {other.split(":")[0] for other in names[place + 1 :]}
        if name.split(":")[0] == "crf" and after - {"sam"}:
            raise UserError(
                f"The refiner {name} must be the last one, with nothing but sam after it; move it "
                "to the end."
            )
    single = [part for name in names for part in COMBINED.get(name, (name,))]
    if weights is not None and not TRAINED.keys() & set(single):
        raise UserError(
            f"No refiner uses --refine-weights; give one of {', '.join([*TRAINED, *COMBINED])} "
            "with --refine."
        )
    return [TRAINED[name](weights) if name in TRAINED else REFINERS[name]() for name in single]


def refine_tracks(
    refiners: Sequence[Refiner], video: RefinerVideo, tracks: list[Track]
) -> list[Track]:
    """Applies refiners one after the other. Raises ValueError if one of them changes the ids."""
    for refiner in refiners:
        ids = [track.id for track in tracks]
        tracks = refiner(video, tracks)
        if [track.id for track in tracks] != ids:
            raise ValueError(f"the refiner {refiner.name} must return the tracks {ids}, in order")
    return tracks


def describe_refiners(refiners: Sequence[Refiner]) -> list[Mapping[str, Any]]:
    """The record of the refiners that were applied: name and settings of each, in order."""
    return [{"name": refiner.name, **refiner.settings()} for refiner in refiners]


def human_annotation(refiners: Sequence[Refiner], weights: WeightsInfo | None = None) -> str:
    """The record of whether a refiner, or the model before them, learned from human annotation."""
    used = any(refiner.settings().get("human_annotation") for refiner in refiners)
    used = used or (weights is not None and weights.human_annotation)
    return "used" if used else "none"

"""Labels that a video gives itself: the refined masks of the pipeline, and how steady they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from oclr_jax.adapt.footage import Footage, StoredFlow
from oclr_jax.oclr.predict import Segmenter
from oclr_jax.pipeline import run
from oclr_jax.refine.refiner import Refiner, RefinerVideo
from oclr_jax.refine.votes import shot_agreement, split_evenly
from oclr_jax.tracks import Track, frame_masks


class Labels(NamedTuple):
    """What the pipeline finds in a video, on the model grid."""

    ids: UInt8[np.ndarray, "t h w"]  # object that is visible, 0 for none
    # Object behind it as the flow model sees it, the front one of several; 0 for none.
    hidden: UInt8[np.ndarray, "t h w"]
    order: UInt8[np.ndarray, " n"]  # ids, front to back
    # Of the masks after the refiner: soft IoU of a frame's foreground with that of its neighbours
    # along the flow, 0 without any.
    agreement: Float32[np.ndarray, " t"]


class Steadiness(NamedTuple):
    """How masks behave from frame to frame."""

    agreement: Float32[np.ndarray, " t"]  # as `Labels.agreement`
    area: Float32[np.ndarray, " t"]  # share of the grid that is foreground


@dataclass
class _Watch:
    """A refiner that changes nothing and keeps what it sees."""

    name: ClassVar[str] = "watch"
    tracks: list[Track] = field(default_factory=list)
    agreement: Float32[np.ndarray, " t"] | None = None

    def settings(self) -> dict[str, Any]:
        """No settings."""
        return {}

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """Keeps the tracks and the agreement of their masks."""
        self.tracks, self.agreement = tracks, _agreement(video, tracks)
        return tracks


def _agreement(video: RefinerVideo, tracks: Sequence[Track]) -> Float32[np.ndarray, " t"]:
    agreement = np.zeros(video.clip.count, np.float32)
    for number, shot in enumerate(video.clip.shots):
        objects = [track for track in tracks if track.shot == number]
        if objects:
            agreement[shot.start : shot.stop] = shot_agreement(video, objects, shot)
    return agreement


def make_labels(
    footage: Footage,
    flow: StoredFlow,
    segmenter: Segmenter,
    refiners: Sequence[Refiner],
    quiet: bool = True,
) -> Labels:
    """Runs the pipeline on a video."""
    tracks, agreement = watch(footage, flow, segmenter, refiners, quiet)
    order = [track.id for track in sorted(tracks, key=lambda track: track.rank)]
    return Labels(*_ids(tracks, footage, segmenter), np.array(order, np.uint8), agreement)


def measure(
    footage: Footage,
    flow: StoredFlow,
    segmenter: Segmenter,
    refiners: Sequence[Refiner],
    quiet: bool = True,
) -> Steadiness:
    """As `make_labels`; returns how the masks behave and not the masks."""
    tracks, agreement = watch(footage, flow, segmenter, refiners, quiet)
    ids, _ = _ids(tracks, footage, segmenter)
    area = (ids > 0).mean(axis=(1, 2))
    return Steadiness(agreement, area.astype(np.float32))


def watch(
    footage: Footage,
    flow: StoredFlow,
    segmenter: Segmenter,
    refiners: Sequence[Refiner],
    quiet: bool,
) -> tuple[list[Track], Float32[np.ndarray, " t"]]:
    """The tracks of a video and, for every frame, the agreement of their masks; see `Labels`."""
    seen = _Watch()
    run(footage.clip, flow.stream(segmenter.info.model.gaps), segmenter, [*refiners, seen], quiet)
    return seen.tracks, seen.agreement


def _ids(
    tracks: Sequence[Track], footage: Footage, segmenter: Segmenter
) -> tuple[UInt8[np.ndarray, "t h w"], UInt8[np.ndarray, "t h w"]]:
    """`Labels.ids` and `Labels.hidden`."""
    model = segmenter.info.model
    found = [
        visible_and_hidden(tracks, frame, model.height, model.width)
        for frame in range(footage.clip.count)
    ]
    visible, hidden = (np.stack(ids) for ids in zip(*found, strict=True))
    return visible, hidden


def visible_and_hidden(
    tracks: Sequence[Track], frame: int, height: int, width: int
) -> tuple[UInt8[np.ndarray, "height width"], UInt8[np.ndarray, "height width"]]:
    """The id of the visible object at each pixel of a frame, and of the front one behind it."""
    ids, amodal = frame_masks(tracks, frame, height, width)
    hidden = np.zeros_like(ids)
    for track in sorted(tracks, key=lambda track: track.rank):
        if track.id in amodal:
            behind = amodal[track.id] & (ids > 0) & (ids != track.id) & (hidden == 0)
            hidden[behind] = track.id
    return ids, hidden


def left_out(shots: Sequence[range], frames: int) -> Bool[np.ndarray, " t"]:
    """Which frames of a video are never trained on: the last quarter of every 4 `frames` frames.

    Of a shorter shot it is also the last quarter. They show whether adapted weights are better.
    """
    held = np.zeros(shots[-1].stop, bool)
    for shot in shots:
        for part in split_evenly(shot, 4 * frames):
            held[part.stop - len(part) // 4 : part.stop] = True
    return held

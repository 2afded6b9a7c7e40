"""Test-time adaptation as a refiner of tracks: OCLR-TTA of the first paper (supplement C)."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from oclr_jax.oclr.tta.backbone import Backbone, load_backbone, working_size
from oclr_jax.oclr.tta.config import VARIANTS, TTAConfig
from oclr_jax.oclr.tta.finetune import finetune
from oclr_jax.oclr.tta.keyframe import check_frames, consistency_error, consistent, key_frame
from oclr_jax.oclr.tta.propagation import enlarge, object_masks, propagate
from oclr_jax.oclr.tta.times import PartTimes
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import StoredMask, Track, frame_masks
from oclr_jax.video.clip import progress


@dataclass(frozen=True)
class TTARefiner:
    """Propagates the masks of a key frame over each shot, with features adapted to the video.

    Every object of a shot is refined at once. An object that the key frame does not show keeps its
    masks until a consistent frame brings it in (with `TTAConfig.fuse_flow`). Masks have the size of
    the frames that the features are computed on.
    """

    name: str
    config: TTAConfig
    backbone: Backbone  # as loaded; each video adapts its own copy

    def settings(self) -> dict[str, Any]:
        """As `Refiner`."""
        features = {
            "weights": self.backbone.name,
            "weights_sha256": self.backbone.digest,
            "precision": self.backbone.config.compute_dtype,
        }
        return asdict(self.config) | features

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """As `Refiner`."""
        clip, config = video.clip, self.config
        if not tracks:
            return tracks
        times = PartTimes()
        size = working_size(clip.height, clip.width, config)
        patch = self.backbone.config.patch
        # On the grid of the features, by nearest neighbour as published.
        ids = [
            frame_masks(tracks, frame, *size)[0][::patch, ::patch].copy()
            for frame in range(clip.count)
        ]
        with times.part("features"):
            tokens = video.features(self.backbone.frozen_id, *size, self.backbone.frozen_tokens)
        with times.part("fine-tuning"):
            adapted = finetune(self.backbone, tokens, ids, clip.shots, config, video.quiet)
        for number, shot in enumerate(clip.shots):
            objects = [track for track in tracks if track.shot == number]
            inputs = _Shot(video, shot, objects, ids, adapted, tokens, size)
            refined = {track.id: track for track in self._refine_shot(inputs, times)}
            tracks = [refined.get(track.id, track) for track in tracks]
        if not video.quiet:
            print(times.sentence(self.name, clip.count), file=sys.stderr)
        return tracks

    def _refine_shot(self, shot: "_Shot", times: PartTimes) -> list[Track]:
        first, stop = shot.frames.start, shot.frames.stop
        if not shot.objects:
            return []
        with times.part("key frame"):
            frames = progress(shot.frames, "checking masks", len(shot.frames), shot.video.quiet)
            pairs = check_frames(
                times.stream("features", (shot.features(frame) for frame in frames)),
                (shot.masks(frame) for frame in shot.frames),
                self.config,
            )
            errors = [consistency_error(*pair) for pair in pairs]
        start = key_frame(errors)
        if start is None:
            return shot.objects
        good = [False, *consistent(errors)]

        def flow_masks(frames: range) -> Iterator[Float32[np.ndarray, "h w k"] | None]:
            for frame in frames:
                fused = self.config.fuse_flow and good[frame - first]
                yield shot.masks(frame) if fused else None

        key = first + start
        refined = [
            replace(t, modal=dict(t.modal), modal_probability=dict(t.modal_probability))
            for t in shot.objects
        ]
        with times.part("propagation"):
            for order in (range(key, stop), range(key, first - 1, -1)):
                frames = progress(order, "propagating", len(order), shot.video.quiet)
                features = times.stream("features", (shot.features(frame) for frame in frames))
                masks = propagate(shot.masks(key), features, self.config, flow_masks(order[1:]))
                for frame, found in zip(order[1:], masks, strict=True):
                    shot.store(refined, frame, found)
        return refined


@dataclass(frozen=True)
class _Shot:
    """One shot of a video with its objects, on the grid of the features."""

    video: RefinerVideo
    frames: range
    objects: list[Track]
    ids: Sequence[UInt8[np.ndarray, "h w"]]  # of all frames of the video
    backbone: Backbone
    tokens: Sequence[np.ndarray]
    size: tuple[int, int]  # of the frames that the features are computed on

    def features(self, frame: int) -> Float[Array, "h w c"]:
        return self.backbone.features(self.tokens[frame], *self.size)

    def masks(self, frame: int) -> Float32[np.ndarray, "h w k"]:
        return object_masks(self.ids[frame], [track.id for track in self.objects])

    def store(self, tracks: list[Track], frame: int, found: Float32[np.ndarray, "h w k"]) -> None:
        """Sets the masks of one frame; objects without any mask yet stay unchanged."""
        soft = enlarge(found, *self.size)
        label = soft.argmax(-1)
        for channel, track in enumerate(tracks, start=1):
            if not found[..., channel].any():
                continue
            # Above one half where the object wins.
            rival = np.delete(soft, channel, axis=-1).max(-1)
            probability = soft[..., channel] / np.maximum(soft[..., channel] + rival, 1e-6)
            track.modal[frame] = StoredMask.encode(label == channel, probability)
            track.modal_probability[frame] = self.video.store_probability(probability)


def open_tta(name: str) -> TTARefiner:
    """Opens a variant of test-time adaptation. Raises UserError if its weights are missing."""
    config = VARIANTS[name]
    return TTARefiner(name, config, load_backbone(config))

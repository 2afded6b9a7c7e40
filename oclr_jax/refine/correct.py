"""`--refine correct`: masks refined by exemplars of the whole shot (second paper, section 3.3)."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from oclr_jax.errors import UserError
from oclr_jax.models.corrector import Corrector, CorrectorConfig, Exemplars
from oclr_jax.ops.selection import frame_windows, one_object_per_pixel
from oclr_jax.refine.appearance_models import (
    AppearanceModel,
    load_appearance_model,
    network_images,
    visible_masks,
)
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.refine.select import select_frames
from oclr_jax.refine.votes import shot_agreement
from oclr_jax.tracks import StoredMask, Track
from oclr_jax.video.clip import progress


class Correct:
    """A `Refiner` that replaces the masks of tracks, in every frame of their shot.

    It needs the qualities that `select` sets. The objects of a shot are refined in groups as large
    as the corrector takes; then a pixel belongs to its most probable object, if that is above 0.5.
    With `CorrectorConfig.keep_steady` an object stays as it was if its corrected masks are less
    steady along the flow.
    """

    name = "correct"

    def __init__(
        self, weights: str | os.PathLike | None = None, model: AppearanceModel | None = None
    ):
        """Takes a corrector, or loads it from the folder `weights`, or the default one."""
        self.model = model or load_appearance_model("corrector", weights)

    def settings(self) -> dict[str, Any]:
        """As `Refiner`."""
        return self.model.settings() | {"window": self.model.config.frames}

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """As `Refiner`.

        Raises:
          UserError: the masks have no qualities.
        """
        if any(not track.quality for track in tracks):
            raise UserError("The refiner correct needs select before it; give select,correct.")
        size = self.model.config.frames
        shots = enumerate(video.clip.shots)
        windows = [
            (number, shot, [shot[i] for i in window])
            for number, shot in shots
            if any(track.shot == number for track in tracks)
            for window in frame_windows(len(shot), size)
        ]
        modal = {track.id: {} for track in tracks}
        soft = {track.id: {} for track in tracks}
        groups: dict[int, list[tuple[list[Track], Exemplars]]] = {}
        for number, shot, frames in progress(windows, "correcting", len(windows), video.quiet):
            inside = [track for track in tracks if track.shot == number]
            if number not in groups:
                # The exemplars of a shot are needed no longer than it lasts.
                groups = {number: list(self.groups(video, inside, shot))}
            found = [self._correct(video, inside, *group, frames) for group in groups[number]]
            probability = np.concatenate(found, axis=-1)
            masks = np.asarray(one_object_per_pixel(jnp.asarray(probability)))
            for k, track in enumerate(inside):
                for i, frame in enumerate(frames):
                    one = probability[i, ..., k]
                    modal[track.id][frame] = StoredMask.encode(masks[i, ..., k], one)
                    soft[track.id][frame] = video.store_probability(one)
        corrected = [
            dataclasses.replace(track, modal=modal[track.id], modal_probability=soft[track.id])
            for track in tracks
        ]
        if not self.model.config.keep_steady:
            return corrected
        pairs = zip(tracks, corrected, strict=True)
        return [after if _is_as_steady(video, before, after) else before for before, after in pairs]

    def groups(
        self, video: RefinerVideo, tracks: Sequence[Track], shot: range
    ) -> Iterator[tuple[list[Track], Exemplars]]:
        """The tracks of a shot in groups, each with its exemplars from the whole shot."""
        config = self.model.config
        for start in range(0, len(tracks), config.objects):
            group = list(tracks[start : start + config.objects])
            yield group, self._exemplars(video, tracks, group, shot)

    def _exemplars(
        self, video: RefinerVideo, tracks: Sequence[Track], group: Sequence[Track], shot: range
    ) -> Exemplars:
        """The masks of highest quality of every track in `group`; a missing track has none."""
        config, features = self.model.config, self.model.features(video)
        e, k = config.exemplars, config.objects
        size = (config.height, config.width)
        exemplars = Exemplars(
            features=np.zeros((1, e, k, *config.grid, config.feature_channels), np.float32),
            masks=np.zeros((1, e, *size, k), np.float32),
            scores=np.zeros((1, e, k), np.float32),
            frames=np.full((1, e, k), -1, np.int32),
            valid=np.zeros((1, e, k), bool),
        )
        for place, track in enumerate(group):
            quality = {frame: track.quality[frame] for frame in shot}
            best = max(quality.values())
            column = [each.id for each in tracks].index(track.id)
            for i, frame in enumerate(select_frames(quality, e)):
                exemplars.features[0, i, place] = features[frame]
                mask = visible_masks(tracks, frame, *size)[..., column]
                exemplars.masks[0, i, ..., place] = mask
                # The softmax of the shot's qualities up to a factor, which does not matter.
                exemplars.scores[0, i, place] = np.exp(quality[frame] - best)
                exemplars.frames[0, i, place] = frame
                exemplars.valid[0, i, place] = True
        return exemplars

    def _correct(
        self,
        video: RefinerVideo,
        tracks: Sequence[Track],
        group: Sequence[Track],
        exemplars: Exemplars,
        frames: Sequence[int],
    ) -> Float[np.ndarray, "t h w k"]:
        """The probabilities of the tracks of `group` in a window."""
        config = self.model.config
        features = self.model.features(video)
        columns = [[each.id for each in tracks].index(track.id) for track in group]
        masks = np.zeros((len(frames), config.height, config.width, config.objects), np.float32)
        for i, frame in enumerate(frames):
            visible = visible_masks(tracks, frame, config.height, config.width)
            masks[i, ..., : len(group)] = visible[..., columns]
        inputs = (
            network_images(self.model.images(video), frames)[None],
            masks[None],
            np.stack([features[frame] for frame in frames]).astype(np.float32)[None],
            exemplars,
            np.array(frames, np.int32)[None],
        )
        probability = _compile(config)(self.model.params, *inputs)
        return np.asarray(probability)[0, ..., : len(group)]


def _is_as_steady(video: RefinerVideo, before: Track, after: Track) -> bool:
    """Whether the masks of a track still agree at least as much with their neighbours.

    It is judged in the frames in which the object had a mask, so that an object that is found in a
    few frames only does not count as steadier for being found everywhere.
    """
    shot = video.clip.shots[before.shot]
    masks = {frame: before.modal.get(frame, before.amodal.get(frame)) for frame in shot}
    present = [mask is not None and bool(mask.decode().any()) for mask in masks.values()]
    old, new = (shot_agreement(video, [track], shot)[present] for track in (before, after))
    return bool(new.sum() >= old.sum())


@lru_cache(maxsize=2)
def _compile(config: CorrectorConfig) -> Callable[..., Float[Array, "b t h w k"]]:
    """The corrector as a compiled function to probabilities."""

    def correct(params, *inputs):
        return jax.nn.sigmoid(Corrector(config).apply({"params": params}, *inputs).mask_logits)

    return jax.jit(correct)

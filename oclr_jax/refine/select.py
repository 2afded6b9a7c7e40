"""`--refine select`: predicts how good every mask of a track is (second paper, section 3.2)."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from oclr_jax.models.selector import CORRECT, Selector, SelectorConfig
from oclr_jax.ops.selection import select_exemplars
from oclr_jax.refine.appearance_models import (
    AppearanceModel,
    load_appearance_model,
    network_images,
    visible_masks,
)
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import Track
from oclr_jax.video.clip import progress

_STEP = 25  # lengths are padded to multiples of this, so that few programs are compiled


class Select:
    """A `Refiner` that sets `Track.quality` and leaves the masks as they are."""

    name = "select"

    def __init__(self, weights: str | os.PathLike | None = None):
        """Loads the selector from the folder `weights`, or the default one."""
        self.model = load_appearance_model("selector", weights)

    def settings(self) -> dict[str, Any]:
        """As `Refiner`."""
        return self.model.settings()

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """As `Refiner`."""
        judged = []
        for track in progress(tracks, "selecting", len(tracks), video.quiet):
            inside = [each for each in tracks if each.shot == track.shot]
            shot = video.clip.shots[track.shot]
            found = judge_masks(self.model, video, inside, track, shot)
            quality = {frame: value for frame, (value, _) in found.items()}
            judged.append(dataclasses.replace(track, quality=quality))
        return judged


def judge_masks(
    model: AppearanceModel,
    video: RefinerVideo,
    tracks: Sequence[Track],
    track: Track,
    shot: range,
    with_errors: bool = False,
) -> dict[int, tuple[float, Float[np.ndarray, "h w 3"] | None]]:
    """The quality of a track's mask in every frame of its shot, and on request its error map.

    A shot with more frames than the selector compares is split into passes that each see evenly
    spaced frames of the whole shot.

    Args:
      model: the selector.
      video: with the frames.
      tracks: all tracks of the shot, which decide what is visible.
      track: one of them.
      shot: its frames.
      with_errors: whether to return error maps; see `models.selector.CORRECT`.
    """
    config = model.config
    images, features = model.images(video), model.features(video)
    place = [each.id for each in tracks].index(track.id)
    passes = -(-len(shot) // config.frames)
    judge = _compile(config)
    found = {}
    for first in range(passes):
        frames = list(shot[first::passes])
        padded = frames + [frames[-1]] * (-len(frames) % min(_STEP, config.frames))
        masks = np.stack(
            [visible_masks(tracks, f, config.height, config.width)[..., place] for f in padded]
        )
        inputs = (
            network_images(images, padded),
            masks[..., None].astype(np.float32),
            np.stack([features[f] for f in padded]).astype(np.float32),
        )
        inputs = jax.tree.map(lambda x: x[None], inputs)
        quality, errors = judge(model.params, *inputs, jnp.array([len(frames)]))
        for index, frame in enumerate(frames):
            error = None
            if with_errors and errors is not None:
                error = np.asarray(errors[0, index, :, :, 0])
            found[frame] = (float(quality[0, index, 0]), error)
    return dict(sorted(found.items()))


@lru_cache(maxsize=2)
def _compile(config: SelectorConfig) -> Callable:
    """The selector as a compiled function to quality and error map."""

    def judge(params, images, masks, features, length):
        output = Selector(config).apply({"params": params}, images, masks, features, length)
        errors = None if output.error_logits is None else jax.nn.softmax(output.error_logits)
        return output.quality, errors

    return jax.jit(judge)


def wrong_pixels(error_map: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """The probability that a pixel of a mask is wrong."""
    return 1 - error_map[..., CORRECT]


def select_frames(quality: dict[int, float], count: int) -> list[int]:
    """The `count` frames of highest quality, in order of time; fewer if there are fewer."""
    frames = list(quality)
    values = jnp.asarray(list(quality.values()), jnp.float32)[None, :, None]
    index, valid = select_exemplars(values, count)
    return [frames[i] for i, known in zip(index[0, :, 0], valid[0, :, 0], strict=True) if known]

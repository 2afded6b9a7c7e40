"""The refiner `self`: learns what the objects of a video look like from their own masks.

It needs no weights. Every frame is voted on by its neighbours along the flow; a tiny classifier of
pixels is trained on the votes; the logits of both are averaged.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from oclr_jax.refine.appearance import (
    Classifier,
    check_classifier,
    collect_pixels,
    log_probabilities,
    object_places,
    pixel_features,
    train_classifier,
)
from oclr_jax.refine.joint import visible_masks
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.refine.votes import PART_FRAMES, collect_votes, split_evenly
from oclr_jax.tracks import StoredMask, Track
from oclr_jax.video.resize import resize_image

# The refined masks have SCALE times the height and width of the model grid.
SCALE = 2
# The classifier is trained on this share of the frames, those which agree best with their
# neighbours, less one in HELD_OUT of all, on which it is checked.
TRAINED_SHARE = 0.75
HELD_OUT = 4
# Pixels that it is trained and checked on.
TRAINED_PIXELS = 2**17
CHECKED_PIXELS = 2**14
# The weight of the classifier, for each object: 0 if its soft IoU with the votes of the held-out
# frames is at most TRUST[0], MAX_WEIGHT from TRUST[1] on. The votes have the rest.
TRUST = (0.4, 0.7)
MAX_WEIGHT = 0.5
_LEAST = 1e-3  # of a probability in a logarithm
_BATCH = 4  # frames per call of the compiled program


@dataclass(frozen=True)
class SelfRefiner:
    """Refines masks by votes of neighbouring frames and by appearance; needs no weights."""

    name: ClassVar[str] = "self"
    steps: int = 600  # of training
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """Returns the fields; everything else is fixed by the version."""
        return asdict(self)

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """Refines part after part of each shot; only the frames of one part are in memory."""
        refined = {track.id: replace(track, modal={}, modal_probability={}) for track in tracks}
        frames = video.frames("refining")
        height, width = (SCALE * side for side in video.grid)
        for number, shot in enumerate(video.clip.shots):
            for part in split_evenly(shot, PART_FRAMES):
                images = [resize_image(image, height, width) for image in islice(frames, len(part))]
                objects = [
                    track
                    for track in tracks
                    if track.shot == number and any(frame in track.amodal for frame in part)
                ]
                if not objects:
                    continue
                for frame, joint in self._refine_part(video, objects, shot, part, images):
                    masks = visible_masks(joint)
                    for track, (mask, probability) in zip(objects, masks, strict=True):
                        result, stored = refined[track.id], video.store_probability(probability)
                        result.modal[frame] = StoredMask.encode(mask, probability)
                        result.modal_probability[frame] = stored
        return list(refined.values())

    def _refine_part(
        self,
        video: RefinerVideo,
        objects: Sequence[Track],
        shot: range,
        part: range,
        images: Sequence[UInt8[np.ndarray, "H W 3"]],
    ) -> Iterator[tuple[int, Float32[np.ndarray, "H W c"]]]:
        """Yields each frame of a part, and the probabilities of the background and the objects."""
        votes = collect_votes(video, objects, shot, part)
        places = object_places(votes.masks)
        trained, checked = choose_frames(votes.agreement)
        rng = np.random.default_rng((self.seed, part.start))
        seen = (images, votes.masks, places)
        pixels = collect_pixels(rng, *seen, trained, TRAINED_PIXELS)
        classifier = train_classifier(jax.random.key(self.seed), pixels, self.steps)
        pixels = collect_pixels(rng, *seen, checked, CHECKED_PIXELS)
        check = np.asarray(check_classifier(classifier, pixels))
        trust = np.interp(check, TRUST, (0, MAX_WEIGHT)).astype(np.float32)
        for first in range(0, len(part), _BATCH):
            # The last batch is filled up with the last frame.
            batch = [min(first + index, len(part) - 1) for index in range(_BATCH)]
            features = np.stack([pixel_features(images[index]) for index in batch])
            masks = votes.masks[batch].astype(np.float32)
            joint = np.asarray(_average(classifier, trust, features, places[batch], masks))
            for index in range(min(_BATCH, len(part) - first)):
                yield part[first + index], joint[index, ..., : len(objects) + 1]


def choose_frames(agreement: Float32[np.ndarray, " t"]) -> tuple[list[int], list[int]]:
    """Chooses the frames that the classifier is trained on, and those on which it is checked.

    Both have masks that agree with their neighbours. Very short parts are checked on the frames of
    training.
    """
    count = len(agreement)
    best = np.argsort(-agreement, kind="stable")[: max(1, round(TRAINED_SHARE * count))]
    checked = sorted(int(frame) for frame in best if frame % HELD_OUT == HELD_OUT - 1)
    trained = sorted(int(frame) for frame in best if frame % HELD_OUT != HELD_OUT - 1)
    return trained or checked, checked or trained


@jax.jit
def _average(
    classifier: Classifier,
    trust: Float[Array, " c"],
    features: Float[Array, "n H W f"],
    places: Float[Array, "n k 4"],
    votes: Float[Array, "n h w c"],
) -> Float[Array, "n H W c"]:
    """Averages the logits of the classifier and of the votes, with a weight for each object.

    Logits are relative to the background, so an object without trust is as the votes have it.
    """
    seen = log_probabilities(classifier, features, places[:, None, None])
    voted = jax.image.resize(votes, (*features.shape[:3], votes.shape[-1]), "linear")
    seen, voted = jnp.maximum(seen, np.log(_LEAST)), jnp.log(jnp.maximum(voted, _LEAST))
    logits = trust * (seen - seen[..., :1]) + (1 - trust) * (voted - voted[..., :1])
    return jax.nn.softmax(logits)

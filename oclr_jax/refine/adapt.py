"""The corrector trained on its own masks of a video (second paper, A.3), and `--refine adapt`.

The masks that it predicts in the exemplar frames of an object are the targets. `--refine adapt`
trains on the video that is refined; `oclr adapt` on many videos in turn.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from oclr_jax.errors import UserError
from oclr_jax.models.corrector import Corrector, CorrectorConfig, Exemplars
from oclr_jax.ops.refinement_losses import CorrectorLossWeights, corrector_loss
from oclr_jax.ops.selection import frame_windows
from oclr_jax.refine.appearance_models import network_images, visible_masks
from oclr_jax.refine.correct import Correct
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import Track
from oclr_jax.video.clip import progress


@dataclasses.dataclass(frozen=True)
class CorrectorTraining:
    """How the corrector is trained on a video; the defaults are the paper's (A.3)."""

    steps: int = 200
    learning_rate: float = 2e-5  # of Adam, constant
    reconstruction: bool = True  # the loss terms of the feature reconstruction (table 15)
    seed: int = 0

    @property
    def loss_weights(self) -> CorrectorLossWeights:
        """The weights of the loss terms. Labels may have wrong outlines: no boundary term."""
        weights = CorrectorLossWeights(boundary=0.0)
        if self.reconstruction:
            return weights
        return dataclasses.replace(weights, reconstruction=0.0, alpha=0.0)


class Example(NamedTuple):
    """A window of a shot to train on; the batch has one."""

    images: Float[Array, "1 t h w 3"]
    features: Float[Array, "1 t y x c"]
    exemplars: Exemplars
    frames: Int[Array, "1 t"]
    labels: UInt8[Array, "1 t h w k"]
    known: Bool[Array, "1 t k"]  # where the frame is an exemplar of the object


class Adapt:
    """A `Refiner` that trains the corrector on a video and corrects the flow model's masks again.

    It follows `appearance`. The corrector that it is given stays as it is, for the next video.
    """

    name: ClassVar[str] = "adapt"
    training: CorrectorTraining = CorrectorTraining()

    def __init__(self, weights: str | os.PathLike | None = None, reconstruction: bool = True):
        """Loads the corrector from the folder `weights`, or the default one."""
        self.correct = Correct(weights)
        self.training = dataclasses.replace(self.training, reconstruction=reconstruction)

    def settings(self) -> dict[str, Any]:
        """As `Refiner`."""
        return self.correct.settings() | dataclasses.asdict(self.training)

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """As `Refiner`.

        Raises:
          UserError: the masks have no qualities.
        """
        if any(not track.quality for track in tracks):
            raise UserError(
                "The refiner adapt needs select,correct before it; give appearance,adapt."
            )
        params = train_corrector(self.correct, video, tracks, self.training)
        adapted = dataclasses.replace(self.correct.model, params=params)
        return Correct(model=adapted)(video, flow_masks(tracks))


def flow_masks(tracks: Sequence[Track]) -> list[Track]:
    """Corrected tracks as the corrector saw them: with the masks of the flow model."""
    return [dataclasses.replace(one, modal={}, modal_probability={}) for one in tracks]


def train_corrector(
    correct: Correct,
    video: RefinerVideo,
    tracks: Sequence[Track],
    training: CorrectorTraining,
    left_out: Bool[np.ndarray, " t"] | None = None,
) -> dict[str, Any]:
    """Trains a corrector on windows of all shots of a video, drawn at random.

    Args:
      correct: the corrector to start from; it is not changed.
      video: with the frames.
      tracks: with qualities and corrected masks, which are the labels.
      training: length and learning rate.
      left_out: frames whose masks are no labels.

    Returns:
      its parameters after the training; those from the start if no frame can be learned from.
    """
    model = correct.model
    windows = _windows(correct, video, tracks, left_out)
    if not windows:
        return model.params
    params = model.params
    step, optimizer = make_step(model.config, training.learning_rate, training.loss_weights)
    state, rng = optimizer.init(params), np.random.default_rng(training.seed)
    key = jax.random.key(training.seed)
    drawn = rng.integers(len(windows), size=training.steps)
    for number, index in enumerate(progress(drawn, "adapting", training.steps, video.quiet)):
        example = _example(correct, video, windows[index], tracks)
        params, state, _ = step(params, state, example, jax.random.fold_in(key, number))
    return params


class _Window(NamedTuple):
    """A window of a shot with at least one exemplar frame."""

    group: list[Track]
    exemplars: Exemplars
    frames: Int[np.ndarray, " t"]
    known: Bool[np.ndarray, "t k"]  # where the frame is an exemplar of the object


def _windows(
    correct: Correct,
    video: RefinerVideo,
    tracks: Sequence[Track],
    left_out: Bool[np.ndarray, " t"] | None,
) -> list[_Window]:
    windows = []
    for number, shot in enumerate(video.clip.shots):
        inside = [track for track in flow_masks(tracks) if track.shot == number]
        for group, exemplars in correct.groups(video, inside, shot):
            for window in frame_windows(len(shot), correct.model.config.frames):
                frames = np.array([shot[i] for i in window], np.int32)
                known = _known(exemplars, frames)
                if left_out is not None:
                    known &= ~left_out[frames, None]
                if known.any():
                    windows.append(_Window(group, exemplars, frames, known))
    return windows


def _example(
    correct: Correct, video: RefinerVideo, window: _Window, tracks: Sequence[Track]
) -> Example:
    model, frames = correct.model, window.frames
    size = model.config.height, model.config.width
    features = model.features(video)
    ids = [track.id for track in tracks]
    columns = [ids.index(track.id) for track in window.group]
    masks = np.zeros((len(frames), *size, model.config.objects), np.uint8)
    for i, frame in enumerate(frames):
        # Also of objects that were not corrected, which have no modal masks.
        masks[i, ..., : len(columns)] = visible_masks(tracks, int(frame), *size)[..., columns]
    return Example(
        images=network_images(model.images(video), frames.tolist())[None],
        features=np.stack([features[frame] for frame in frames]).astype(np.float32)[None],
        exemplars=window.exemplars,
        frames=frames[None],
        labels=masks[None],
        known=window.known[None],
    )


def _known(exemplars: Exemplars, frames: Int[np.ndarray, "t"]) -> Bool[np.ndarray, "t k"]:
    """Which of the frames are exemplars of each object."""
    same = frames[:, None, None] == np.asarray(exemplars.frames)[0]
    return (same & np.asarray(exemplars.valid)[0]).any(axis=1)


@lru_cache(maxsize=2)
def make_step(
    config: CorrectorConfig, learning_rate: float, weights: CorrectorLossWeights
) -> tuple[Callable, optax.GradientTransformation]:
    """Compiles a step of the adaptation, and makes its optimizer.

    The step is a pure function (parameters, optimizer state, `Example`, key) -> (parameters, state,
    loss). The masks that go to the upsampler are empty, so that it must take outlines from the
    frames (A.3); the exemplars keep theirs.
    """
    optimizer = optax.adam(learning_rate)

    @jax.jit
    def step(params: Any, state: Any, example: Example, key: Key[Array, ""]):
        def loss(params):
            output = Corrector(config).apply(
                {"params": params},
                example.images,
                jnp.zeros(example.labels.shape, example.images.dtype),
                example.features,
                example.exemplars,
                example.frames,
                train=True,
                rngs={"dropout": key},
            )
            return corrector_loss(
                output.mask_logits,
                example.labels,
                output.reconstruction,
                example.features,
                output.alphas,
                weights,
                known=example.known,
            )[0]

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer

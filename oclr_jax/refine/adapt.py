"""`--refine adapt`: the corrector fine-tuned on the video itself (second paper, A.3).

Its own masks at the exemplar frames are the targets, as in the adaptation to a dataset.
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
from oclr_jax.refine.appearance_models import network_images
from oclr_jax.refine.correct import Correct
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import Track
from oclr_jax.video.clip import progress
from oclr_jax.video.resize import resize_mask

# Labels may have wrong outlines, so the boundary term is off.
_WEIGHTS = dataclasses.replace(CorrectorLossWeights(), boundary=0.0)


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
    steps = 200
    learning_rate = 2e-5
    seed = 0

    def __init__(self, weights: str | os.PathLike | None = None):
        """Loads the corrector from the folder `weights`, or the default one."""
        self.correct = Correct(weights)

    def settings(self) -> dict[str, Any]:
        """As `Refiner`."""
        own = {name: getattr(self, name) for name in ("steps", "learning_rate", "seed")}
        return self.correct.settings() | own

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """As `Refiner`.

        Raises:
          UserError: the masks were not corrected before.
        """
        if any(not (track.quality and track.modal_probability) for track in tracks):
            raise UserError(
                "The refiner adapt needs select,correct before it; give appearance,adapt."
            )
        # The input is what the corrector saw: the masks of the flow model.
        given = [dataclasses.replace(one, modal={}, modal_probability={}) for one in tracks]
        model = self.correct.model
        adapted = dataclasses.replace(model, params=self._train(video, given, tracks))
        return Correct(model=adapted)(video, given)

    def _train(
        self, video: RefinerVideo, given: Sequence[Track], labels: Sequence[Track]
    ) -> dict[str, Any]:
        """The parameters after training on windows of all shots, drawn at random."""
        config = self.correct.model.config
        groups = []
        for number, shot in enumerate(video.clip.shots):
            inside = [track for track in given if track.shot == number]
            for group, exemplars in self.correct.groups(video, inside, shot):
                for window in frame_windows(len(shot), config.frames):
                    frames = np.array([shot[i] for i in window], np.int32)
                    known = _known(exemplars, frames)
                    if known.any():
                        groups.append((group, exemplars, frames, known))
        params = self.correct.model.params
        if not groups:
            return params
        step, optimizer = make_step(config, self.learning_rate)
        state, rng = optimizer.init(params), np.random.default_rng(self.seed)
        key = jax.random.key(self.seed)
        drawn = rng.integers(len(groups), size=self.steps)
        for number, index in enumerate(progress(drawn, "adapting", self.steps, video.quiet)):
            example = self._example(video, *groups[index], labels)
            params, state, _ = step(params, state, example, jax.random.fold_in(key, number))
        return params

    def _example(
        self,
        video: RefinerVideo,
        group: Sequence[Track],
        exemplars: Exemplars,
        frames: Int[np.ndarray, "t"],
        known: Bool[np.ndarray, "t k"],
        labels: Sequence[Track],
    ) -> Example:
        model = self.correct.model
        size = model.config.height, model.config.width
        features = model.features(video)
        by_id = {track.id: track for track in labels}
        masks = np.zeros((len(frames), *size, model.config.objects), np.uint8)
        for place, track in enumerate(group):
            for i, frame in enumerate(frames):
                stored = by_id[track.id].modal.get(int(frame))
                if stored is not None:
                    masks[i, ..., place] = resize_mask(stored.decode(), *size)
        return Example(
            images=network_images(model.images(video), frames.tolist())[None],
            features=np.stack([features[frame] for frame in frames]).astype(np.float32)[None],
            exemplars=exemplars,
            frames=frames[None],
            labels=masks[None],
            known=known[None],
        )


def _known(exemplars: Exemplars, frames: Int[np.ndarray, "t"]) -> Bool[np.ndarray, "t k"]:
    """Which of the frames are exemplars of each object."""
    same = frames[:, None, None] == np.asarray(exemplars.frames)[0]
    return (same & np.asarray(exemplars.valid)[0]).any(axis=1)


@lru_cache(maxsize=2)
def make_step(
    config: CorrectorConfig, learning_rate: float
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
                _WEIGHTS,
                known=example.known,
            )[0]

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer

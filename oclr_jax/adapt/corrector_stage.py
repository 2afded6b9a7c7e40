"""The corrector trained on its own masks of the footage (second paper, sections 3.4 and A.3)."""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Bool

from oclr_jax.adapt.guard import judge
from oclr_jax.adapt.work import Models, Work
from oclr_jax.pipeline import run
from oclr_jax.refine.adapt import CorrectorTraining, train_corrector
from oclr_jax.refine.correct import Correct
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import Track
from oclr_jax.train.processes import mean_over_processes, own_part
from oclr_jax.video.clip import progress


@dataclasses.dataclass
class _Train:
    """A refiner that leaves the masks as they are and trains a corrector on them."""

    name: ClassVar[str] = "train"
    correct: Correct  # trained by each call
    training: CorrectorTraining
    left_out: Bool[np.ndarray, " t"]

    def settings(self) -> dict[str, Any]:
        """No settings."""
        return {}

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """Trains on a video with corrected masks."""
        params = train_corrector(self.correct, video, tracks, self.training, self.left_out)
        self.correct = with_params(self.correct, params)
        return tracks


def with_params(correct: Correct, params: Any) -> Correct:
    """The corrector with other parameters."""
    return Correct(model=dataclasses.replace(correct.model, params=params))


def adapt_corrector(work: Work, number: int, models: Models) -> tuple[Models, dict[str, Any]]:
    """Round `number` of the corrector.

    The labels are the masks of the corrector from the start of the round. They count in exemplar
    frames alone, except those left out.

    Returns:
      the models, with another corrector if it is kept, and the record: the verdict and the passes
      over the videos.
    """
    start, passes = models.correct, work.settings.corrector_passes
    before = work.measured(f"round_{number}_uncorrected", models, refined=True)
    params, done = start.model.params, 0
    while done < passes:
        name = f"round_{number}_corrector_{done + 1}"
        trained = (number - 1) * passes + done
        if not work.state.has_params(name) and work.out_of_time("corrector", trained):
            break
        train = partial(_train_on_all, work, models, params, trained)
        with work.state.timed("corrector"):
            params, _ = work.state.params(name, "corrector", start.model.info, train)
        done += 1
        work.print_time_left("corrector", trained + 1, passes * work.settings.rounds)
    adapted = models._replace(correct=with_params(start, params))
    after = work.measured(f"round_{number}_corrected", adapted, refined=True)
    verdict = judge(work.names, before, after, work.held)
    if not done:
        verdict = verdict._replace(kept=False, reason="the time was over before the training began")
    return adapted if verdict.kept else models, {**verdict._asdict(), "passes": done}


def _train_on_all(
    work: Work, models: Models, params: Any, seed: int
) -> tuple[Any, dict[str, float]]:
    """Trains the corrector on every video once, in random order.

    Several processes take a part of the videos each; the result is the mean of their parameters
    (McMahan et al., AISTATS 2017).
    """
    settings = work.settings
    rng = np.random.default_rng((settings.seed, seed))
    correct, held = with_params(models.correct, params), work.held
    segmenter, gaps = work.with_params(models.flow), work.segmenter.info.model.gaps
    order = rng.permutation(len(work.footage))
    own = own_part(list(zip(order, rng.integers(2**31, size=len(order)), strict=True)))
    for video, drawn in progress(own, "training the corrector", len(own), work.quiet):
        training = CorrectorTraining(
            settings.corrector_steps,
            settings.corrector_learning_rate,
            settings.reconstruction,
            int(drawn),
        )
        trainer = _Train(correct, training, held[video])
        refiners = [*work.refiners(models), trainer]
        run(work.footage[video].clip, work.flows[video].stream(gaps), segmenter, refiners)
        correct = trainer.correct
    trained = jax.tree.map(np.asarray, correct.model.params)
    return mean_over_processes(trained, len(own)), {}

"""What the stages of an adaptation share: footage, models, checks, labels and the time left."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool

from oclr_jax.adapt.clips import RenderedScenes
from oclr_jax.adapt.footage import Footage, StoredFlow
from oclr_jax.adapt.labels import Labels, Steadiness, left_out, make_labels, measure
from oclr_jax.adapt.settings import AdaptSettings
from oclr_jax.adapt.state import State
from oclr_jax.oclr.predict import Segmenter
from oclr_jax.refine.correct import Correct
from oclr_jax.refine.refiner import Refiner
from oclr_jax.refine.select import Select
from oclr_jax.refine.self_refiner import SelfRefiner
from oclr_jax.train.processes import decided_by_lead, print_once
from oclr_jax.train.tasks.segmentation import Segmentation


class Models(NamedTuple):
    """What is adapted: parameters of the flow model, and the corrector if there is one."""

    flow: Any
    correct: Correct | None


@dataclasses.dataclass(frozen=True)
class Work:
    """What does not change in an adaptation."""

    state: State
    settings: AdaptSettings
    footage: list[Footage]
    flows: list[StoredFlow]
    segmenter: Segmenter  # with the weights to start from, one pass
    select: Select | None
    task: Segmentation  # the flow model on clips
    scenes: RenderedScenes
    start: Models
    budget: float  # seconds, over all sessions
    quiet: bool

    @property
    def held(self) -> list[Bool[np.ndarray, " t"]]:
        """The left-out frames of each video."""
        return [left_out(flow.shots, self.settings.frames) for flow in self.flows]

    @property
    def names(self) -> list[str]:
        """The names of the videos."""
        return [one.clip.name for one in self.footage]

    def with_params(self, params: Any, passes: int = 1) -> Segmenter:
        """The flow model with other parameters."""
        return dataclasses.replace(self.segmenter, params=jax.device_put(params), passes=passes)

    def refiners(self, models: Models) -> list[Refiner]:
        """The refiners of the labels."""
        if self.settings.labels == "self":
            return [SelfRefiner()]
        return [self.select, models.correct]

    def measured(self, name: str, models: Models, refined: bool = False) -> list[Steadiness]:
        """How steady the masks are in each video, of the flow model or after the refiners."""
        segmenter = self.with_params(models.flow)
        refiners = self.refiners(models) if refined else []
        with self.state.timed("checks"):
            return self._for_each_video(f"{name}_steady", Steadiness, measure, segmenter, refiners)

    def labels(self, name: str, models: Models) -> list[Labels]:
        """The masks of the pipeline in each video; those of the start are made once."""
        name = "before" if models is self.start else name
        segmenter = self.with_params(models.flow, self.settings.passes)
        refiners = self.refiners(models)
        with self.state.timed("labels"):
            return self._for_each_video(f"{name}_labels", Labels, make_labels, segmenter, refiners)

    def _for_each_video(
        self, name: str, kind: type, make: Callable, segmenter: Segmenter, refiners: list[Refiner]
    ) -> list:
        """What `make` makes of each video."""
        makes = [
            partial(make, one, flow, segmenter, refiners, self.quiet)
            for one, flow in zip(self.footage, self.flows, strict=True)
        ]
        return self.state.arrays(name, kind, makes)

    def print_time_left(self, part: str, trained: int, planned: int) -> None:
        """Prints about how long all trainings of this kind that are left take, and the last labels.

        Args:
          part: of the work, "training" or "corrector".
          trained, planned: how often it was done, and will be if the budget allows it.
        """
        if self.quiet:
            return
        seconds = self.state.seconds
        each = sum(seconds.get(name, 0.0) for name in (part, "checks")) / trained
        rest = (planned - trained) * each + seconds.get("labels", 0.0) / self.settings.rounds
        rest = min(rest, max(self.budget - sum(seconds.values()), 0.0))
        print_once(f"{part} {trained} of {planned} done, about {rest / 60:.0f} min left")

    def out_of_time(self, part: str, trained: int) -> bool:
        """Whether more training, and what comes after it, would take too long.

        Args:
          part: of the work, "training" or "corrector".
          trained: how often it was done so far.
        """
        seconds = self.state.seconds
        rest = seconds.get("labels", 0.0) / self.settings.rounds
        for name in (part, "checks"):
            rest += seconds.get(name, 0.0) / max(trained, 1)
        return decided_by_lead(sum(seconds.values()) + rest > self.budget)

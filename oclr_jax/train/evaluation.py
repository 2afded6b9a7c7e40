"""The evaluation of a training: scores, strips, report and exported weights."""

import dataclasses
import itertools
import json
import math
import os
import time
from contextlib import closing
from functools import cached_property
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from oclr_jax.train.data import DataError, TrainingData, read_batches
from oclr_jax.train.devices import on_this_process, sum_over_processes
from oclr_jax.train.interrupts import StopSignal
from oclr_jax.train.processes import is_lead, print_once
from oclr_jax.train.record.journal import Journal
from oclr_jax.train.record.report import TrainingReport
from oclr_jax.train.record.strips import drawn_steps, read_strip, write_strip
from oclr_jax.train.record.timing import PhaseTimer
from oclr_jax.train.state import ORIGIN
from oclr_jax.train.task import Task, Variables


@dataclasses.dataclass
class Evaluation:
    """Scores parameters on the validation examples, and writes what that gives."""

    config: ConfigDict
    workdir: epath.Path
    task: Task
    data: TrainingData
    command: str
    journal: Journal
    report: TrainingReport
    timer: PhaseTimer
    stop: StopSignal

    @cached_property
    def compiled(self) -> Any:
        """The task's `evaluate`, compiled."""
        return jax.jit(self.task.evaluate)

    def is_due(self, step: int) -> bool:
        """Whether the training is evaluated after this step."""
        return step > 0 and (step % self.config.evaluate_every == 0 or step == self.config.steps)

    def run(self, step: int, variables: Variables) -> float | None:
        """Evaluates and writes strips, rows, report and weights; returns `ranking_score`.

        A signal cuts it short. Then only strips are written.
        """
        # Every process evaluates its own examples, on one of its devices.
        variables, began = on_this_process(variables), time.monotonic()
        scores = self.score(step, variables)
        if scores is None:
            return None
        if is_lead():
            self.write(step, variables, scores | {"seconds": time.monotonic() - began})
        return self.ranking_score(scores)

    def score(self, step: int, variables: Variables) -> dict[str, float] | None:
        """The scores over the examples of all processes; None where a signal cut it short."""
        sums = {f"{score}_{part}": 0.0 for score in self.task.scores for part in ("sum", "count")}
        limit, (index, count) = self.config.validation_clips, _process()
        own = len(range(index, limit, count)) if limit else None
        with closing(read_batches(self.data.validation_batches())) as batches:
            for number, batch in enumerate(itertools.islice(batches, own)):
                if self.stop.may_interrupt:
                    return None
                batch_sums, prediction = self.compiled(variables, batch)
                for name, value in batch_sums.items():
                    sums[name] += float(value)
                example = index + number * count
                if example in self.config.strips:
                    strip = self.task.draw(batch, jax.tree.map(np.asarray, prediction))
                    write_strip(self.workdir, example, step, strip)
        # When the sums of all processes are there, all have written their strips.
        sums = sum_over_processes(sums)
        if not any(sums[f"{score}_count"] for score in self.task.scores):
            raise DataError("The validation set is empty; generate one, or choose another.")
        return mean_scores(sums)

    def ranking_score(self, scores: dict[str, float]) -> float | None:
        """The task's best score with its sign such that higher is better; None without it."""
        value = scores.get(self.task.best_score)
        return value if value is None or self.task.higher_is_better else -value

    def write(self, step: int, variables: Variables, scores: dict[str, float]) -> None:
        """Writes rows, report and weights."""
        name = self.task.best_score
        before = [self.ranking_score({name: x}) for x in self.journal.scores(name)]
        for clip in self.config.strips:
            if step in drawn_steps(self.workdir, clip):
                strip = read_strip(self.workdir, clip, step)
                self.journal.image(f"validation/clip_{clip}", step, strip)
        self.journal.write("validation", step, scores)
        self.write_report(step)
        self.export("weights.safetensors", step, variables, scores)
        score = self.ranking_score(scores)
        if score is not None and score > max(before, default=-math.inf):
            self.export("weights_best.safetensors", step, variables, scores)
        text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        print_once(f"step {step}: {text}")

    def write_report(self, step: int) -> None:
        """Writes the report of a training that has done `step` steps."""
        if is_lead():
            self.report.write(step, self.journal, self.timer)

    def export(
        self, filename: str, step: int, variables: Variables, scores: dict[str, float]
    ) -> None:
        """Writes self-describing weights."""
        card = {
            "steps": step,
            "seed": self.config.seed,
            "command": self.command,
            "validation": scores,
            "config": json.loads(self.config.to_json_best_effort()),
        }
        if (self.workdir / ORIGIN).exists():
            card["started_from"] = json.loads((self.workdir / ORIGIN).read_text())
        variables = jax.tree.map(np.asarray, variables)
        path = os.fspath(self.workdir / filename)
        about = self.config.name, card, self.data.metadata, self.config.export_dtype
        self.task.export(path, variables, *about)


def _process() -> tuple[int, int]:
    """Index of this process, and the number of processes."""
    return jax.process_index(), jax.process_count()


def mean_scores(sums: dict[str, float]) -> dict[str, float]:
    """`x_sum` over `x_count` for every score x that was counted at least once."""
    names = [name.removesuffix("_sum") for name in sums if name.endswith("_sum")]
    return {n: sums[f"{n}_sum"] / sums[f"{n}_count"] for n in names if sums[f"{n}_count"] > 0}

"""The HTML page of a training run."""

import os
from dataclasses import dataclass
from typing import Any

from oclr_jax.show.html import (
    escape,
    figures,
    format_number,
    name_value_table,
    note,
    picture,
    table,
    write_page,
)

_MAX_EVALUATIONS = 20  # rows of the table of scores, the newest ones


@dataclass(frozen=True)
class TrainingSummary:
    """The content of the page.

    name: name of the weights.
    steps: completed steps and total steps.
    command: command line of the run; empty if unknown.
    scores: for each evaluation, metric name to value; `step` is one of the names.
    phases: seconds spent in each phase, summed over all sessions of the run.
    environment: versions, devices and git state.
    config: field to value; nested field names are joined by dots.
    curves: PNG of the training curves.
    strips: title of each validation clip to its pictures (caption to PNG).
    """

    name: str
    steps: tuple[int, int]
    command: str
    scores: list[dict[str, Any]]
    phases: dict[str, float]
    environment: dict[str, str]
    config: dict[str, Any]
    curves: bytes
    strips: dict[str, dict[str, bytes]]


def write_training_page(path: str | os.PathLike, summary: TrainingSummary) -> None:
    """Writes the page: scores, curves, validation clips, time, environment and configuration."""
    done, total = summary.steps
    title = f"Training of {summary.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Step {done:,} of {total:,}{': finished' * (done >= total)}.</p>",
        f"<pre>{escape(summary.command)}</pre>" if summary.command else "",
        "<h2>Validation</h2>",
        _scores(summary.scores),
        "<h2>Curves</h2>",
        picture("curves over the steps", summary.curves),
        "<h2>Validation clips</h2>",
        note(
            "The same clips at every evaluation. Rows: flow to the next frame; modal masks, ground "
            "truth and prediction; amodal masks, ground truth and prediction. The colour of a "
            "predicted layer is that of its query."
        ),
        _clips(summary.strips),
        "<h2>Time by phase</h2>",
        _phases(summary.phases),
        "<h2>Environment</h2>",
        name_value_table(summary.environment),
        "<h2>Configuration</h2>",
        name_value_table(summary.config),
    ]
    write_page(path, title, parts)


def _scores(scores: list[dict[str, Any]]) -> str:
    if not scores:
        return note("Not evaluated yet.")
    names = [name for name in dict.fromkeys(n for row in scores for n in row) if name != "step"]
    rows = [[f"{row['step']:,}", *(format_number(row.get(n), 4) for n in names)] for row in scores]
    return table(["step", *names], rows[-_MAX_EVALUATIONS:], numbers_from=0)


def _clips(strips: dict[str, dict[str, bytes]]) -> str:
    if not strips:
        return note("None drawn yet.")
    return "".join(f"<h3>{escape(name)}</h3>{figures(strips[name])}" for name in strips)


def _phases(phases: dict[str, float]) -> str:
    total = sum(phases.values())
    rows = [
        [name, f"{seconds:,.1f}", f"{seconds / total:.1%}" if total else ""]
        for name, seconds in [*phases.items(), ("all", total)]
    ]
    return table(["phase", "seconds", "share"], rows, numbers_from=1)

"""The HTML page that sets several evaluations side by side."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from oclr_jax.show.html import escape, format_number, note, picture, table, write_page
from oclr_jax.video.png import encode_png


class ComparedRun(NamedTuple):
    """A run: name of its folder, what was scored, and its means by protocol and metric."""

    name: str
    description: str
    means: dict[str, dict[str, float]]


class Difference(NamedTuple):
    """A sequence in which runs differ: its picture, a row for each run, and the frames shown."""

    sequence: str
    image: UInt8[np.ndarray, "h w 3"]
    stems: list[str]


def write_comparison_page(
    path: str | os.PathLike,
    title: str,
    protocol: str,
    runs: Sequence[ComparedRun],
    scores: Sequence[tuple[str, Sequence[float]]],
    differences: Sequence[Difference],
) -> None:
    """Writes the page.

    Args:
      path: HTML file.
      title: of the dataset.
      protocol: of the scores and pictures.
      runs: the runs.
      scores: J of each run by sequence, in the order in which they are listed.
      differences: pictures of some sequences.
    """
    names = [run.name for run in runs]
    parts = [
        f"<h1>{escape(title)}: {len(runs)} runs</h1>",
        table(["run", "what was scored"], [list(run[:2]) for run in runs], numbers_from=2),
        "<h2>Means</h2>",
        table(["protocol", "metric", *names], _means(runs), numbers_from=2),
        "<h2>J of every sequence</h2>",
        note(f"Protocol {protocol}. The sequences in which the runs differ most come first."),
        table(["sequence", *names, "largest difference"], map(_row, scores), numbers_from=1),
    ]
    if differences:
        parts += ["<h2>Where they differ most</h2>", note("Frames whose masks agree least.")]
    for difference in differences:
        caption = f"{difference.sequence}, frames {', '.join(difference.stems)}"
        parts += [f"<h3>{escape(caption)}</h3>", picture(caption, encode_png(difference.image))]
    write_page(path, f"{title}: comparison", parts)


def _row(scores: tuple[str, Sequence[float]]) -> list[Any]:
    name, values = scores
    return [name, *map(format_number, values), format_number(float(np.ptp(values)))]


def _means(runs: Sequence[ComparedRun]) -> list[list[Any]]:
    pairs = dict.fromkeys(
        (protocol, metric)
        for run in runs
        for protocol, figures in run.means.items()
        for metric in figures
    )
    return [
        [
            protocol,
            metric,
            *(format_number(run.means.get(protocol, {}).get(metric)) for run in runs),
        ]
        for protocol, metric in pairs
    ]

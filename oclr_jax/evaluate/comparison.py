"""Several evaluations side by side: which sequences and frames make the difference."""

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from oclr_jax.datasets.benchmarks import VOID
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate.datasets import open_dataset
from oclr_jax.evaluate.protocols import scored_on
from oclr_jax.evaluate.table import describe
from oclr_jax.evaluate.truth import read_truth
from oclr_jax.ops.metrics import jaccard
from oclr_jax.show.comparison_page import ComparedRun, Difference, write_comparison_page
from oclr_jax.show.grid import picture_grid
from oclr_jax.show.overlay import paint_ids
from oclr_jax.video.png import read_ids
from oclr_jax.video.resize import resize_image

_SEQUENCES = 6  # with pictures
_FRAMES = 4  # of each
_WIDTH = 240  # pixels of one picture


@dataclass(frozen=True)
class _Run:
    folder: Path
    report: dict[str, Any]

    def masks(self, protocol: str) -> Path:
        """The folder of its masks, by sequence."""
        if self.report["results"]:
            return Path(self.report["results"])
        kind = "tracks" if scored_on(protocol) == "tracks" else "paper"
        return self.folder / "masks" / kind


def compare_runs(
    runs: Sequence[str | os.PathLike], data: str | os.PathLike, output: str | os.PathLike
) -> str:
    """Writes a page that sets evaluations of one dataset side by side.

    It has the means, J of every sequence, those that differ most first, and of these the frames in
    which the masks differ most.

    Args:
      runs: folders of `oclr evaluate --output`, at least two.
      data: the dataset, as for `evaluate_dataset`.
      output: HTML file.

    Returns:
      the protocol that is compared: the first that all runs have, on tracks if there is one.

    Raises:
      UserError: a folder is no finished evaluation, or the runs have no dataset or protocol in
        common.
    """
    found = [_read(Path(run)) for run in runs]
    protocol = _shared_protocol(found)
    scores = _scores(found, protocol)
    order = sorted(scores, key=lambda name: -np.ptp(scores[name]))
    dataset = open_dataset(found[0].report["dataset"], data)
    sequences = {sequence.name: sequence for sequence in dataset.sequences}
    pictures = []
    for name in order[:_SEQUENCES]:
        if name in sequences:
            sequence = sequences[name]
            truth = read_truth(sequence, dataset.benchmark)
            drawn = _picture(found, protocol, sequence, truth.frames, truth.ids)
            if drawn is not None:
                pictures.append(Difference(name, *drawn))
    compared = [
        ComparedRun(run.folder.name, describe(run.report), run.report["mean"]) for run in found
    ]
    title = found[0].report["title"]
    ranked = [(name, scores[name]) for name in order]
    write_comparison_page(output, title, protocol, compared, ranked, pictures)
    return protocol


def _read(folder: Path) -> _Run:
    path = folder / "metrics.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no metrics.json; give the --output of finished `oclr evaluate` runs."
        )
    return _Run(folder, json.loads(path.read_text(encoding="utf-8")))


def _shared_protocol(runs: list[_Run]) -> str:
    if len(runs) < 2:
        raise UserError("There is one run and nothing to compare it with; give at least two.")
    titles = sorted({run.report["title"] for run in runs})
    if len(titles) > 1:
        raise UserError(f"The runs are on different datasets ({', '.join(titles)}); give one.")
    means = [run.report["mean"] for run in runs]
    shared = [name for name in means[0] if all(name in mean for mean in means)]
    if not shared:
        raise UserError("The runs have no protocol in common; evaluate them under the same one.")
    return next((name for name in shared if scored_on(name) == "tracks"), shared[0])


def _scores(runs: list[_Run], protocol: str) -> dict[str, list[float]]:
    """J of each run, by sequence that all of them have scored."""
    reports = [run.report["sequences"] for run in runs]
    names = [name for name in reports[0] if all(name in report for report in reports)]
    entries = {name: [report[name][protocol] for report in reports] for name in names}
    return {
        name: [entry["J"] for entry in of_runs]
        for name, of_runs in entries.items()
        if all("J" in entry for entry in of_runs)
    }


def _picture(
    runs: list[_Run],
    protocol: str,
    sequence: BenchmarkSequence,
    frames: list[int],
    truth: UInt8[np.ndarray, "t h w"],
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]] | None:
    """The frames in which the masks of the runs differ most, and their names; None without masks.

    Rows: the ground truth, then the runs in their order.
    """
    masks = [_masks(run.masks(protocol) / sequence.folder, sequence, frames, truth) for run in runs]
    if any(mask is None for mask in masks):
        return None
    shown = sorted(np.argsort(-disagreement(masks), kind="stable")[:_FRAMES].tolist())
    rows = []
    for ids in (np.where(truth == VOID, 0, truth), *masks):
        row = []
        for index in shown:
            image = sequence.frame(frames[index])
            height = round(_WIDTH * image.shape[0] / image.shape[1])
            row.append(resize_image(paint_ids(image, ids[index]), height, _WIDTH))
        rows.append(row)
    names = ["truth", *(run.folder.name[:12] for run in runs)]
    return picture_grid(rows, gap=2, row_titles=names), [sequence.stems[frames[i]] for i in shown]


def _masks(
    folder: Path, sequence: BenchmarkSequence, frames: list[int], truth: UInt8[np.ndarray, "t h w"]
) -> UInt8[np.ndarray, "t h w"] | None:
    paths = [folder / f"{sequence.stems[frame]}.png" for frame in frames]
    if not any(path.is_file() for path in paths):
        return None
    empty = np.zeros(truth.shape[1:], np.uint8)
    masks = [read_ids(path) if path.is_file() else empty for path in paths]
    return np.stack(masks) if all(mask.shape == empty.shape for mask in masks) else None


def disagreement(masks: list[UInt8[np.ndarray, "t h w"]]) -> Float64[np.ndarray, "t"]:
    """1 - IoU of the foregrounds in each frame, the mean over all pairs of runs."""
    pairs = itertools.combinations(masks, 2)
    return np.mean([1 - jaccard(one > 0, other > 0) for one, other in pairs], axis=0)

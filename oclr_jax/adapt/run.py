"""Adapts the models to footage without annotations (second paper, sections 3.4 and A.3).

In each round the corrector is trained on its own masks of the footage, and the flow model on the
refined masks, with flow at other gaps than it is used with. Masks on left-out frames decide which
weights go on.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from oclr_jax.adapt.clips import RenderedScenes
from oclr_jax.adapt.corrector_stage import adapt_corrector
from oclr_jax.adapt.flow_stage import adapt_flow_model
from oclr_jax.adapt.footage import Footage, open_footage, store_flow
from oclr_jax.adapt.report import write_report
from oclr_jax.adapt.settings import AdaptSettings
from oclr_jax.adapt.state import State
from oclr_jax.adapt.work import Models, Work
from oclr_jax.errors import UserError
from oclr_jax.files import locked_output, write_json
from oclr_jax.flow import FlowEstimator
from oclr_jax.flow.source import GRAMMAR, model_estimator
from oclr_jax.models.layers.folding import lanes_here
from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.oclr.predict import Segmenter, load_segmenter
from oclr_jax.ops.losses import LossWeights
from oclr_jax.refine.correct import Correct
from oclr_jax.refine.select import Select
from oclr_jax.train.processes import failing_together, is_lead, own_part, wait_for_all
from oclr_jax.train.tasks.segmentation import Segmentation
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights

WEIGHTS, REPORT, RECORD = "weights.safetensors", "report.html", "adapt.json"
REFINE_WEIGHTS = "refine"  # folder for --refine-weights


def adapt(
    videos: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    refine_weights: str | os.PathLike | None = None,
    flow: str | None = None,
    settings: AdaptSettings | None = None,
    budget: float | None = None,
    precision: str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Adapts the flow model, the corrector or both to videos, and writes their weights.

    The folder gets weights.safetensors (the flow model), with the refiner `appearance` the folder
    `refine` (selector and corrector), report.html and adapt.json.

    An adaptation that was stopped goes on where it was; `state` in the folder holds what is done,
    at most 0.2 MB per frame on a grid of 64x112. Several processes (`join_processes`) share the
    videos and the training; each sees videos and folder at the same place.

    Args:
      videos: files, folders of frames, benchmarks built as TFDS datasets. No annotation is read.
      output: folder for the results.
      weights: of the flow model to start from, name or file; None for those of the package.
      refine_weights: folder with selector and corrector, None for the default ones; they are used
        if `settings.labels` is "appearance".
      flow: an estimator, None for that of the weights.
      settings: None for the defaults.
      budget: minutes after which no further training starts; None: no limit.
      precision: of the model, "float32" or "bfloat16"; None for float32 on a CPU, else bfloat16.
      quiet: no progress.

    Returns:
      the content of adapt.json. For each stage, `results` has a record with `kept` for each round.
      Weights that are not kept are written as they were.

    Raises:
      UserError: a video or the weights cannot be used, or the folder holds other results.
    """
    settings, quiet = settings or AdaptSettings(), quiet or not is_lead()
    # Process 0 holds the lock for all.
    output_folder = locked_output(output) if is_lead() else nullcontext(Path(output).resolve())
    with failing_together(), output_folder as folder:
        if (folder / RECORD).exists():
            raise UserError(f"{output} already has adapted weights; choose another folder.")
        segmenter = load_segmenter(weights, precision)
        if segmenter.model != "oclr":
            raise UserError("Only the weights of an OCLR flow model can be adapted.")
        gaps = segmenter.info.model.gaps
        if len(gaps) != 2 or gaps[0] != -gaps[1]:
            raise UserError(
                f"The weights are for flow at gaps {', '.join(map(str, gaps))}; only models of one "
                "gap, ahead and back, can be adapted."
            )
        estimator = model_estimator(flow, segmenter.info.flow, segmenter.precision)
        if estimator is None:
            raise UserError(
                f"Adaptation needs flow at several gaps; give an estimator, {GRAMMAR}, and not a "
                "folder."
            )
        appearance = None
        if settings.labels == "appearance":
            appearance = Select(refine_weights), Correct(refine_weights)
        footage = open_footage(videos, quiet)
        plan = _plan(footage, segmenter, appearance, estimator, settings)
        state = State(folder / "state", plan)
        work = _prepare(state, settings, footage, segmenter, appearance, estimator, budget, quiet)
        before = work.labels("before", work.start)
        models, results = _adapt(work)
        after = work.labels("after", models)
        record = {**plan, "results": results, "seconds": state.seconds}
        if is_lead():
            _save(folder, work, models, record)
            write_report(folder / REPORT, record, footage, before, after)
            write_json(folder / RECORD, record)
            state.remove()
        wait_for_all("the adaptation is saved")
    return record


def _adapt(work: Work) -> tuple[Models, dict[str, list[dict[str, Any]]]]:
    """All rounds of the stages; returns the models, and a record for each stage and round."""
    models = work.start
    stages = {"corrector": adapt_corrector, "flow": adapt_flow_model}
    results = {stage: [] for stage in work.settings.stages}
    for number in range(1, work.settings.rounds + 1):
        for stage in work.settings.stages:
            models, result = stages[stage](work, number, models)
            results[stage].append(result)
    return models, results


def _save(folder: Path, work: Work, models: Models, record: dict[str, Any]) -> None:
    """Writes the weights; the cards of those that changed have the record."""
    info, start = work.segmenter.info, work.start
    if models.flow is not start.flow:
        info = _adapted(info, record)
    save_weights(folder / WEIGHTS, models.flow, info)
    if work.select is None:
        return
    (folder / REFINE_WEIGHTS).mkdir(exist_ok=True)
    info = models.correct.model.info
    if models.correct is not start.correct:
        info = _adapted(info, record)
    save_weights(
        folder / REFINE_WEIGHTS / "corrector.safetensors", models.correct.model.params, info
    )
    selector = work.select.model
    save_weights(folder / REFINE_WEIGHTS / "selector.safetensors", selector.params, selector.info)


def _adapted(info: WeightsInfo, record: dict[str, Any]) -> WeightsInfo:
    """The description of weights after an adaptation."""
    card = {"adapted": record, "started_from": {"weights": info.name, **info.card}}
    return dataclasses.replace(info, name=f"{info.name}-adapted", card=card)


def _plan(
    footage: list[Footage],
    segmenter: Segmenter,
    appearance: tuple[Select, Correct] | None,
    estimator: FlowEstimator,
    settings: AdaptSettings,
) -> dict[str, Any]:
    values = {
        "videos": [one.describe() for one in footage],
        "weights": segmenter.info.name,
        "flow": estimator.settings(),
        "precision": segmenter.precision,
        "refine": [one.settings() for one in appearance or ()],
        "settings": dataclasses.asdict(settings),
    }
    return json.loads(json.dumps(values))  # as it is read again


def _prepare(
    state: State,
    settings: AdaptSettings,
    footage: list[Footage],
    segmenter: Segmenter,
    appearance: tuple[Select, Correct] | None,
    estimator: FlowEstimator,
    budget: float | None,
    quiet: bool,
) -> Work:
    """Estimates the flow of all videos."""
    model = segmenter.info.model
    grid = model.height, model.width
    gaps = tuple(dict.fromkeys(f * gap for f in (1, *settings.gaps) for gap in model.gaps))
    with state.timed("flow"):
        folders = [state.folder / f"video_{number:04d}" for number in range(len(footage))]
        places = list(zip(footage, folders, strict=True))
        for one, folder in own_part(places):
            store_flow(one, estimator, gaps, grid, folder, quiet)
        wait_for_all("flow")
        flows = [store_flow(one, estimator, gaps, grid, folder) for one, folder in places]
    precision = {"remat": False, "compute_dtype": segmenter.precision}
    config = dataclasses.replace(model, frames=settings.frames, **precision)
    scenes = RenderedScenes(settings, grid, model.gaps, estimator)
    start = Models(jax.tree.map(np.asarray, segmenter.params), appearance and appearance[1])
    seconds = float("inf") if budget is None else 60 * budget
    return Work(
        *(state, settings, footage, flows, segmenter, appearance and appearance[0]),
        *(_task(config), scenes, start, seconds, quiet),
    )


@lru_cache(maxsize=1)  # one task is one compiled training step
def _task(config: OCLRConfig) -> Segmentation:
    """As published, without the boundary term; the labels do not tell the order."""
    return Segmentation(OCLR(config, lanes_here()), LossWeights(boundary=0.0, order=0.0))

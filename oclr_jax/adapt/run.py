"""Adapts the flow model to footage without annotations (second paper, sections 3.4 and A.3).

In each round the pipeline labels the footage, the model is trained on the labels with flow at other
gaps than it is used with, and its masks on left-out frames decide which weights go on.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from oclr_jax.adapt.clips import ClipPlace, RenderedScenes, choose_clips, make_batches
from oclr_jax.adapt.footage import Footage, StoredFlow, open_footage, store_flow
from oclr_jax.adapt.guard import Verdict, judge, score
from oclr_jax.adapt.labels import Labels, Steadiness, left_out, make_labels, measure
from oclr_jax.adapt.report import write_report
from oclr_jax.adapt.settings import AdaptSettings
from oclr_jax.adapt.state import State
from oclr_jax.errors import UserError
from oclr_jax.files import locked_output, write_json
from oclr_jax.flow import FlowEstimator
from oclr_jax.flow.source import GRAMMAR, model_estimator
from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.oclr.predict import Segmenter, load_segmenter
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.fit import fit
from oclr_jax.train.schedule import OptimizerConfig
from oclr_jax.train.task import Variables
from oclr_jax.train.tasks.segmentation import Segmentation
from oclr_jax.video.clip import progress
from oclr_jax.weights.file import save_weights

WEIGHTS, REPORT, RECORD = "weights.safetensors", "report.html", "adapt.json"
_WARMUP = 5  # steps of each stage, whose optimizer starts anew


@dataclasses.dataclass(frozen=True)
class _Work:
    """What does not change in an adaptation."""

    state: State
    settings: AdaptSettings
    footage: list[Footage]
    flows: list[StoredFlow]
    segmenter: Segmenter  # with the weights to start from, one pass
    task: Segmentation  # the same model on clips
    scenes: RenderedScenes
    budget: float  # seconds, over all sessions
    quiet: bool

    @property
    def held(self) -> list[np.ndarray]:
        """The left-out frames of each video."""
        return [left_out(flow.shots, self.settings.frames) for flow in self.flows]

    def with_params(self, params: Any, passes: int = 1) -> Segmenter:
        return dataclasses.replace(self.segmenter, params=jax.device_put(params), passes=passes)


def adapt(
    videos: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    flow: str | None = None,
    settings: AdaptSettings | None = None,
    budget: float | None = None,
    precision: str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Adapts a flow model to videos and writes weights.safetensors, report.html and adapt.json.

    An adaptation that was stopped goes on where it was; `state` in the folder holds what is done,
    at most 0.2 MB per frame on a grid of 64x112.

    Args:
      videos: files, folders of frames, benchmarks built as TFDS datasets. No annotation is read.
      output: folder for the results.
      weights: to start from, name or file; None for those of the package.
      flow: an estimator, None for that of the weights.
      settings: None for the defaults.
      budget: minutes after which no further training starts; None: no limit.
      precision: of the model, "float32" or "bfloat16"; None for float32 on a CPU, else bfloat16.
      quiet: no progress.

    Returns:
      the content of adapt.json. Where the adapted weights are not kept, `kept` is False and the
      weights that are written are those from the start.

    Raises:
      UserError: a video or the weights cannot be used, or the folder holds other results.
    """
    settings = settings or AdaptSettings()
    with locked_output(output) as folder:
        if (folder / RECORD).exists():
            raise UserError(f"{output} already has adapted weights; choose another folder.")
        segmenter = load_segmenter(weights, precision)
        if segmenter.model != "oclr":
            raise UserError("Only the flow model has weights to adapt.")
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
        footage = open_footage(videos, quiet)
        plan = _plan(footage, segmenter, estimator, settings)
        state = State(folder / "state", plan)
        work = _prepare(state, settings, footage, segmenter, estimator, budget, quiet)
        record, params, after = _adapt(work)
        record = {**plan, **record, "seconds": state.seconds}
        info = segmenter.info
        if record["kept"]:
            card = {"adapted": record, "started_from": {"weights": info.name, **info.card}}
            info = dataclasses.replace(info, name=f"{info.name}-adapted", card=card)
        save_weights(folder / WEIGHTS, params, info)
        write_report(folder / REPORT, record, footage, _first_labels(work), after)
        write_json(folder / RECORD, record)
        state.remove()
    return record


def _plan(
    footage: list[Footage], segmenter: Segmenter, estimator: FlowEstimator, settings: AdaptSettings
) -> dict[str, Any]:
    values = {
        "videos": [one.describe() for one in footage],
        "weights": segmenter.info.name,
        "flow": estimator.settings(),
        "precision": segmenter.precision,
        "settings": dataclasses.asdict(settings),
    }
    return json.loads(json.dumps(values))  # as it is read again


def _prepare(
    state: State,
    settings: AdaptSettings,
    footage: list[Footage],
    segmenter: Segmenter,
    estimator: FlowEstimator,
    budget: float | None,
    quiet: bool,
) -> _Work:
    """Estimates the flow of all videos."""
    model = segmenter.info.model
    grid = model.height, model.width
    gaps = tuple(dict.fromkeys(f * gap for f in (1, *settings.gaps) for gap in model.gaps))
    with state.timed("flow"):
        flows = [
            store_flow(one, estimator, gaps, grid, state.folder / f"video_{number:04d}", quiet)
            for number, one in enumerate(footage)
        ]
    precision = {"remat": False, "compute_dtype": segmenter.precision}
    config = dataclasses.replace(model, frames=settings.frames, **precision)
    scenes = RenderedScenes(settings, grid, model.gaps, estimator)
    seconds = float("inf") if budget is None else 60 * budget
    return _Work(state, settings, footage, flows, segmenter, _task(config), scenes, seconds, quiet)


@lru_cache(maxsize=1)  # one task is one compiled training step
def _task(config: OCLRConfig) -> Segmentation:
    """As published, without the boundary term; the labels do not tell the order."""
    return Segmentation(OCLR(config), LossWeights(boundary=0.0, order=0.0))


def _adapt(work: _Work) -> tuple[dict[str, Any], Any, list[Labels]]:
    """All rounds; returns the record, the weights to keep, and the labels that these give."""
    start = jax.tree.map(np.asarray, work.segmenter.params)
    before = _measured(work, "before", start)
    best, rows = (score(before, work.held), start, before), []
    rows.append({"round": 0, "step": 0, "agreement": best[0]})
    clips = 0
    for number in range(1, work.settings.rounds + 1):
        labels = _labels(work, f"round_{number}", best[1])
        gaps, frames = work.segmenter.info.model.gaps, work.settings.frames
        places = choose_clips(labels, work.flows, gaps, frames)
        clips = max(clips, len(places))
        if not places:
            break
        best = _round(work, number, labels, places, best, rows)
    agreement, params, after = best
    names = [one.clip.name for one in work.footage]
    if params is start:
        verdict = Verdict(False, _why_unchanged(clips, len(rows)), agreement, agreement)
    else:
        verdict = judge(names, before, after, work.held)
    params = params if verdict.kept else start
    record = {**verdict._asdict(), "clips": clips, "rows": rows}
    return record, params, _labels(work, "after", params)


def _why_unchanged(clips: int, rows: int) -> str:
    if not clips:
        return "no part of the videos has moving objects with masks that hold from frame to frame"
    if rows == 1:
        return "the time was over before the training began"
    return "no weights of the training have steadier masks"


def _round(
    work: _Work,
    number: int,
    labels: list[Labels],
    places: list[ClipPlace],
    best: tuple[float, Any, list[Steadiness]],
    rows: list[dict[str, Any]],
) -> tuple[float, Any, list[Steadiness]]:
    """Trains on the labels from the best weights so far; returns the best ones after."""
    settings, state, params = work.settings, work.state, best[1]
    stages = settings.steps // settings.stage_steps
    for stage in range(stages):
        name = f"round_{number}_stage_{stage}"
        if not state.has_params(name) and _out_of_time(work):
            break
        train = partial(_fit, work, params, labels, places, number * stages + stage)
        with state.timed("training"):
            params, metrics = state.params(name, work.segmenter.info, train)
        measured = _measured(work, name, params)
        step = (stage + 1) * settings.stage_steps
        row = {"round": number, "step": step, "agreement": score(measured, work.held)}
        rows.append({**row, **metrics})
        if row["agreement"] > best[0]:
            best = row["agreement"], params, measured
    return best


def _fit(
    work: _Work,
    params: Any,
    labels: list[Labels],
    places: list[ClipPlace],
    stage: int,
) -> tuple[Any, dict[str, float]]:
    settings = work.settings
    gaps = work.segmenter.info.model.gaps
    batches = make_batches(places, labels, work.flows, work.scenes, gaps, settings, stage)
    optimizer = OptimizerConfig(settings.learning_rate, warmup_steps=_WARMUP)
    shown = progress(batches, "training", settings.stage_steps, work.quiet)
    fitted, metrics = fit(
        work.task, Variables(params), shown, settings.stage_steps, optimizer=optimizer, seed=0
    )
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    return jax.tree.map(np.asarray, fitted.params), {"loss": means["loss"]}


def _out_of_time(work: _Work) -> bool:
    """Whether another stage, and what comes after the last one, would take too long."""
    seconds = work.state.seconds
    stages = len(list(work.state.folder.glob("round_*_stage_*.safetensors")))
    rest = seconds.get("labels", 0.0) / max(work.settings.rounds, 1)
    for part in ("training", "checks"):
        rest += seconds.get(part, 0.0) / max(stages, 1)
    return sum(seconds.values()) + rest > work.budget


def _measured(work: _Work, name: str, params: Any) -> list[Steadiness]:
    """How steady the masks of these weights are, in each video."""
    segmenter = work.with_params(params)
    with work.state.timed("checks"):
        return [
            work.state.arrays(
                f"{name}_steady_{number:04d}",
                Steadiness,
                lambda one=one, flow=flow: measure(one, flow, segmenter, work.quiet),
            )
            for number, (one, flow) in enumerate(zip(work.footage, work.flows, strict=True))
        ]


def _labels(work: _Work, name: str, params: Any) -> list[Labels]:
    """The masks of the pipeline with these weights, in each video."""
    segmenter = work.with_params(params, work.settings.passes)
    with work.state.timed("labels"):
        return [
            work.state.arrays(
                f"{name}_labels_{number:04d}",
                Labels,
                lambda one=one, flow=flow: make_labels(one, flow, segmenter, work.quiet),
            )
            for number, (one, flow) in enumerate(zip(work.footage, work.flows, strict=True))
        ]


def _first_labels(work: _Work) -> list[Labels]:
    """The masks of the pipeline before adaptation."""
    return _labels(work, "round_1", work.segmenter.params)

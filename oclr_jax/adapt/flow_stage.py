"""The flow model trained on the refined masks of the footage (second paper, section 3.4)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from oclr_jax.adapt.clips import ClipPlace, choose_clips, make_batches
from oclr_jax.adapt.guard import Verdict, judge, score
from oclr_jax.adapt.labels import Labels, Steadiness
from oclr_jax.adapt.work import Models, Work
from oclr_jax.train.devices import all_devices
from oclr_jax.train.fit import fit
from oclr_jax.train.schedule import OptimizerConfig
from oclr_jax.train.task import Variables
from oclr_jax.video.clip import progress

_WARMUP = 5  # steps after each check, where the optimizer starts anew


def adapt_flow_model(work: Work, number: int, models: Models) -> tuple[Models, dict[str, Any]]:
    """Round `number` of the flow model.

    Returns:
      the models, with other parameters of the flow model if they are kept, and the record: the
      verdict, the number of clips, and a row for each check.
    """
    name = f"round_{number}"
    before = work.measured(f"{name}_before", models)
    labels = work.labels(name, models)
    gaps, frames = work.segmenter.info.model.gaps, work.settings.frames
    places = choose_clips(labels, work.flows, gaps, frames)
    start = score(before, work.held)
    rows: list[dict[str, Any]] = [{"step": 0, "agreement": start}]
    best = (start, models.flow, before)
    if places:
        best = _train(work, number, labels, places, best, rows)
    agreement, params, after = best
    if params is models.flow:
        verdict = Verdict(False, _why_unchanged(len(places), len(rows)), agreement, agreement)
    else:
        verdict = judge(work.names, before, after, work.held)
    if verdict.kept:
        models = models._replace(flow=params)
    return models, {**verdict._asdict(), "clips": len(places), "rows": rows}


def _why_unchanged(clips: int, rows: int) -> str:
    if not clips:
        return "no part of the videos has moving objects with masks that hold from frame to frame"
    if rows == 1:
        return "the time was over before the training began"
    return "no weights of the training have steadier masks"


def _train(
    work: Work,
    number: int,
    labels: list[Labels],
    places: list[ClipPlace],
    best: tuple[float, Any, list[Steadiness]],
    rows: list[dict[str, Any]],
) -> tuple[float, Any, list[Steadiness]]:
    """Trains on the labels; returns the agreement, parameters and masks of the best check.

    What is checked are means of the trained parameters and those from before.
    """
    settings, state, start = work.settings, work.state, best[1]
    params = start
    parts = settings.steps // settings.check_every
    for part in range(parts):
        step = (part + 1) * settings.check_every
        name = f"round_{number}_step_{step}"
        trained = (number - 1) * parts + part
        if not state.has_params(name) and work.out_of_time("training", trained):
            break
        train = partial(_fit, work, params, labels, places, trained)
        with state.timed("training"):
            params, metrics = state.params(name, "oclr", work.segmenter.info, train)
        mean = _mean(start, params, settings.trained_share)
        measured = work.measured(name, Models(mean, None))
        rows.append({"step": step, "agreement": score(measured, work.held), **metrics})
        work.print_time_left("training", trained + 1, parts * settings.rounds)
        if rows[-1]["agreement"] > best[0]:
            best = rows[-1]["agreement"], mean, measured
    return best


def _mean(start: Any, trained: Any, share: float) -> Any:
    """Parameters between two; robust to both kinds of data (Wortsman et al., CVPR 2022)."""
    return jax.tree.map(lambda a, b: (1 - share) * a + share * b, start, trained)


def _fit(
    work: Work, params: Any, labels: Sequence[Labels], places: Sequence[ClipPlace], part: int
) -> tuple[Any, dict[str, float]]:
    settings = work.settings
    gaps = work.segmenter.info.model.gaps
    devices = all_devices()
    batches = make_batches(*(places, labels, work.flows, work.scenes, gaps, settings, part))
    optimizer = OptimizerConfig(settings.learning_rate, warmup_steps=_WARMUP, decay="cosine")
    shown = progress(batches, "training", settings.check_every, work.quiet)
    fitted, metrics = fit(
        *(work.task, Variables(params), shown, settings.check_every),
        optimizer=optimizer,
        devices=devices,
    )
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    return jax.tree.map(np.asarray, fitted.params), {"loss": means["loss"]}

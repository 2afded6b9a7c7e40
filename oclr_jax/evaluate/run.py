"""Evaluates a model or a folder of masks on a dataset, sequence by sequence."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oclr_jax.datasets.benchmarks import PROTOCOLS, SYNTHETIC, Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate.baseline import BASELINE, baseline_of
from oclr_jax.evaluate.datasets import ON_TRACKS, Dataset, open_dataset
from oclr_jax.evaluate.mask_folder import read_results
from oclr_jax.evaluate.output import EvaluationOutput
from oclr_jax.evaluate.predictions import predict_sequence, sequence_flows, with_gap
from oclr_jax.evaluate.protocols import frame_metrics, identity_metrics, match, scored_on
from oclr_jax.evaluate.scores import Record, score_sequence, summarize
from oclr_jax.evaluate.settings import evaluation_settings
from oclr_jax.evaluate.synthetic import (
    find_synthetic,
    score_synthetic,
    summarize_synthetic,
    synthetic_title,
)
from oclr_jax.evaluate.truth import read_truth
from oclr_jax.flow.source import model_estimator, warn_of_other_flow
from oclr_jax.oclr.predict import Segmenter, load_segmenter, with_stored_gaps
from oclr_jax.refine.refiner import Refiner, open_refiners
from oclr_jax.show.evaluation_page import sequence_strip
from oclr_jax.video.clip import progress

# By protocol and metric.
Means = dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Run:
    """What is scored, a model with its refiners or a folder of masks, how, and into what."""

    segmenter: Segmenter | None  # None: a folder of masks
    refiners: list[Refiner]
    protocols: tuple[str, ...]
    output: EvaluationOutput


def evaluate_dataset(
    name: str,
    data: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    gap: int | None = None,
    results: str | os.PathLike | None = None,
    refine: Sequence[str] | None = None,
    protocols: Sequence[str] = (),
    output: str | os.PathLike | None = None,
    quiet: bool = True,
    precision: str | None = None,
    passes: int | None = None,
    refine_weights: str | os.PathLike | None = None,
    model: str = "oclr",
) -> dict[str, Any]:
    """Scores a model, or the folder of masks `results`, on a dataset.

    Args:
      name: of `oclr_jax.datasets.benchmarks.BENCHMARKS`, `folder` for the user's own data, or one
        of `SYNTHETIC` for the visible masks of synthetic data.
      data: the dataset's files, or the output of its TFDS builder.
      weights: name or file, None for those of the package.
      flow: an estimator or a folder of flow files; None for the flow that is stored with the
        dataset, or else for the estimator that the weights were trained with.
      gap: of the flow, in frames; None for the dataset's first.
      results: folder of masks, `<sequence>/<frame>.png`.
      refine: names of refiners, applied to the model's tracks in this order; None for `self`, ()
        for no refinement. Protocols on windows score the flow model alone.
      protocols: names of `PROTOCOLS`, empty for those of the dataset.
      output: folder for masks, metrics and report. Sequences that it already holds, made with the
        same settings, are not computed again.
      quiet: no progress bar.
      precision: of the models, "float32" or "bfloat16"; None for float32 on a CPU, else bfloat16.
      passes: of the flow model, whose masks are averaged: 1, 2 (mirrored) or 4 (and reversed);
        None for those of the weights.
      refine_weights: folder with the weights of trained refiners; None for the default ones.
      model: "oclr", or a baseline: one of `types.MODELS`.

    Returns the content of metrics.json. Raises UserError for bad input.
    """
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise UserError(f"There is no protocol {protocol!r}; choose from {known}.")
    if refine and results:
        raise UserError("Refiners need a model; leave out --refine or --results.")
    refiners = [] if results else open_refiners(refine, refine_weights)
    dataset = open_dataset(name, data)
    protocols = tuple(protocols or dataset.benchmark.protocols)
    _check_protocols(dataset, protocols)
    gap = gap or dataset.benchmark.gaps[0]
    stored = dataset.flow if flow is None and results is None else None
    if stored and stored["gap"] != gap:
        raise UserError(
            f"The flow in {data} has gap {stored['gap']}, not {gap}; give --gap {stored['gap']} or "
            "another --flow."
        )
    segmenter = (
        None if results else with_gap(load_segmenter(weights, precision, passes, model), gap)
    )
    if stored:
        segmenter = with_stored_gaps(segmenter, (gap, -gap))
    _check_flow_protocols(segmenter, protocols)
    used = stored or _flow_settings(segmenter, flow)
    if segmenter is not None and segmenter.info.data_version is not None:
        warn_of_other_flow(segmenter.info.name, segmenter.info.flow, used)
    named = dataset.benchmark.name, dataset.title
    settings = evaluation_settings(*named, protocols, results, segmenter, used, gap, refiners)
    folder = Path(output) if output else None
    runs = [_Run(segmenter, refiners, protocols, EvaluationOutput(folder, settings))]
    shared = tuple(name for name in protocols if scored_on(name) != "flows")
    if folder and shared and (baseline := baseline_of(segmenter)):
        settings = evaluation_settings(*named, shared, None, baseline, used, gap)
        runs.append(_Run(baseline, [], shared, EvaluationOutput(folder / BASELINE, settings)))
    for sequence in progress(dataset.sequences, "sequences", len(dataset.sequences), quiet):
        if any(sequence.name not in run.output.records for run in runs):
            _evaluate_sequence(runs, sequence, dataset.benchmark, flow, results)

    def summary(records: dict[str, Record], protocols: tuple[str, ...]) -> Means:
        return summarize(records, dataset.benchmark, protocols)

    return _finish(runs, [each.name for each in dataset.sequences], dataset.benchmark, summary)


def evaluate_synthetic(
    name: str,
    data: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    quiet: bool = True,
    precision: str | None = None,
    passes: int | None = None,
    model: str = "oclr",
) -> dict[str, Any]:
    """Scores a model on synthetic data, under `paper`: modal and amodal J and depth order.

    `name` is one of `SYNTHETIC`. The flow is that of the data: the estimated flow of `oclr_syn`, or
    the files beside the released Syn-Val. Other arguments, return value and errors are those of
    `evaluate_dataset`.
    """
    sequences = find_synthetic(name, data)
    segmenter = with_gap(load_segmenter(weights, precision, passes, model), 1)
    segmenter = with_stored_gaps(segmenter, (1, -1))
    title = synthetic_title(name, data)
    flow = {"estimator": "stored with the data"}
    baseline = baseline_of(segmenter) if output else None
    runs = []
    for scored, folder in ((segmenter, output), (baseline, baseline and Path(output) / BASELINE)):
        if scored:
            settings = evaluation_settings(name, title, ["paper"], None, scored, flow, gap=1)
            kept = EvaluationOutput(Path(folder) if folder else None, settings)
            runs.append(_Run(scored, [], ("paper",), kept))
    for sequence in progress(sequences, "sequences", len(sequences), quiet):
        for run in runs:
            if sequence.name not in run.output.records:
                run.output.keep_record(sequence.name, score_synthetic(run.segmenter, sequence))

    def summary(records: dict[str, Record], protocols: tuple[str, ...]) -> Means:
        return summarize_synthetic(records)

    names = [sequence.name for sequence in sequences]
    return _finish(runs, names, Benchmark(name, title, "", ""), summary)


def _check_protocols(dataset: Dataset, protocols: Sequence[str]) -> None:
    other = [name for name in protocols if name not in ON_TRACKS]
    if other and dataset.benchmark.name in SYNTHETIC:
        raise UserError(
            f"Tracks on {dataset.title} are scored under {' and '.join(ON_TRACKS)}, not under "
            f"{other[0]}; give paper alone, or leave it out."
        )
    if "no-oracle" in protocols and "davis-unsupervised" in dataset.benchmark.protocols:
        raise UserError(
            f"The protocol no-oracle is for a single foreground and {dataset.title} has several "
            "objects; choose davis-unsupervised."
        )


def _check_flow_protocols(segmenter: Segmenter | None, protocols: Sequence[str]) -> None:
    if segmenter is not None and segmenter.flow_masks is not None:
        return
    for name in protocols:
        if scored_on(name) == "flows":
            raise UserError(
                f"The protocol {name} scores the masks of single flows; give --model "
                "motion-grouping, or choose another protocol."
            )


def _flow_settings(
    segmenter: Segmenter | None, flow: str | os.PathLike | None
) -> dict[str, Any] | None:
    if segmenter is None:
        return None
    estimator = model_estimator(flow, segmenter.info.flow, segmenter.precision)
    return {"folder": os.fspath(flow)} if estimator is None else estimator.settings()


def _evaluate_sequence(
    runs: list[_Run],
    sequence: BenchmarkSequence,
    benchmark: Benchmark,
    flow: str | os.PathLike | None,
    results: str | os.PathLike | None,
) -> None:
    """Scores a sequence. All runs see the same flow."""
    truth = read_truth(sequence, benchmark)
    flows = [] if results else sequence_flows(runs[0].segmenter, sequence, flow)
    for run in runs:
        protocols, output = run.protocols, run.output
        if sequence.name in output.records:  # stopped between two runs
            continue
        if run.segmenter is None:
            found = read_results(results, sequence, truth, protocols)
        else:
            found = predict_sequence(run.segmenter, sequence, flows, protocols, run.refiners)
            if found.tracks is not None:
                output.keep_masks("tracks", sequence.name, sequence.stems, found.tracks)
            found = found.at(truth.frames)
        matched = {name: match(name, found, truth) for name in protocols}
        if run.segmenter and "paper" in matched:
            stems = [sequence.stems[frame] for frame in truth.frames]
            output.keep_masks("paper", sequence.name, stems, matched["paper"])
        values = {name: frame_metrics(name, masks, truth) for name, masks in matched.items()}
        strip = sequence_strip(sequence, truth.frames, truth.ids, matched[protocols[0]])
        output.keep_strip(sequence.name, strip)
        identity = {name: identity_metrics(name, found, truth, benchmark) for name in protocols}
        output.keep_record(sequence.name, score_sequence(values, truth, identity))


def _finish(
    runs: list[_Run],
    sequences: list[str],
    benchmark: Benchmark,
    summary: Callable[[dict[str, Record], tuple[str, ...]], Means],
) -> dict[str, Any]:
    """Writes the reports, the baseline's before the one that shows it; returns the first run's."""
    report, baseline = {}, None
    for run in reversed(runs):
        records = {name: run.output.records[name] for name in sequences}
        report = {
            **run.output.settings,
            "protocols": {name: PROTOCOLS[name] for name in run.protocols},
            "scored_on": {name: scored_on(name) for name in run.protocols},
            "sequences": records,
            "mean": summary(records, run.protocols),
        }
        run.output.finish(report, benchmark, baseline)
        baseline = report
    return report

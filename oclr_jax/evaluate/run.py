"""The evaluation of a dataset, sequence by sequence; what was interrupted goes on."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jaxtyping import UInt8

import oclr_jax
from oclr_jax.datasets.benchmarks import PROTOCOLS, Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate.datasets import Dataset, open_dataset
from oclr_jax.evaluate.predictions import predict_sequence, read_results, with_gap
from oclr_jax.evaluate.protocols import match, measure
from oclr_jax.evaluate.scores import Record, score_sequence, summarize
from oclr_jax.evaluate.synthetic import find_synthetic, score_synthetic, summarize_synthetic
from oclr_jax.evaluate.table import write_csv
from oclr_jax.evaluate.truth import read_truth
from oclr_jax.files import write_json
from oclr_jax.flow.source import model_estimator
from oclr_jax.oclr.predict import Segmenter, load_segmenter
from oclr_jax.show.evaluation_page import sequence_strip, write_evaluation_page
from oclr_jax.video.clip import progress
from oclr_jax.video.png import write_ids, write_png

_SETTINGS = "settings.json"


@dataclass(frozen=True)
class _Run:
    """One evaluation: what is scored and where it is kept."""

    dataset: Dataset
    protocols: tuple[str, ...]
    segmenter: Segmenter | None  # None: masks of a folder are scored
    flow: str | os.PathLike | None
    results: str | os.PathLike | None
    output: Path | None


def evaluate_dataset(
    name: str,
    data: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    gap: int | None = None,
    results: str | os.PathLike | None = None,
    protocols: Sequence[str] | None = None,
    output: str | os.PathLike | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Scores a model, or with `results` a folder of masks, on a dataset.

    Args:
      name: of `oclr_jax.datasets.benchmarks.BENCHMARKS`, or `folder` for one of the user's own.
      data: the dataset's files, or what its TFDS builder made.
      weights: name or file, None for those of the package.
      flow: an estimator's name, a folder of .flo files, None for the weights' estimator, or for
        the flow that is stored with the dataset.
      gap: of the flow, in frames; None for the dataset's first.
      results: folder of masks, `<sequence>/<frame>.png`.
      protocols: names of `PROTOCOLS`, None for the dataset's own.
      output: folder that keeps masks, figures and the report. Sequences that it has already, made
        with the same settings, are not computed again.
      quiet: no progress bar.

    Returns what metrics.json holds. Raises UserError for bad input.
    """
    for protocol in protocols or ():
        if protocol not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise UserError(f"There is no protocol {protocol!r}; choose from {known}.")
    dataset = open_dataset(name, data)
    protocols = tuple(protocols or dataset.benchmark.protocols)
    if "no-oracle" in protocols and "davis-unsupervised" in dataset.benchmark.protocols:
        raise UserError(
            f"The protocol no-oracle is for a single foreground and {dataset.title} has several "
            "objects; choose davis-unsupervised."
        )
    gap = gap or dataset.benchmark.gaps[0]
    stored = dataset.flow if flow is None and results is None else None
    if stored and stored["gap"] != gap:
        raise UserError(
            f"The flow in {data} has gap {stored['gap']}, not {gap}; give --gap {stored['gap']} or "
            "another --flow."
        )
    segmenter = None if results else with_gap(load_segmenter(weights), gap)
    run = _Run(dataset, protocols, segmenter, flow, results, Path(output) if output else None)
    settings = _settings(run, gap, stored)
    done = _kept(run.output, settings) if run.output else {}
    records: dict[str, Record] = {}
    items = progress(dataset.sequences, "sequences", len(dataset.sequences), quiet)
    for sequence in items:
        record = done.get(sequence.name) or _evaluate_sequence(run, sequence, settings)
        records[sequence.name] = record
    report = {
        **settings,
        "protocols": {name: PROTOCOLS[name] for name in protocols},
        "sequences": records,
        "mean": summarize(records, dataset.benchmark, protocols),
    }
    if run.output:
        _write_figures(run.output, report, dataset)
    return report


def evaluate_synthetic(
    name: str,
    data: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Scores a model on synthetic data, under `paper`: modal and amodal J and depth order.

    `name` is one of `SYNTHETIC`; the rest and what is returned as in `evaluate_dataset`. The flow
    is the data's own: the estimated one of `oclr_syn`, that beside the released Syn-Val.
    """
    sequences = find_synthetic(name, data)
    segmenter = load_segmenter(weights)
    title = f"{name} ({Path(data).resolve().parent.name})" if name == "oclr_syn" else "Syn-Val"
    benchmark = Benchmark(name, title, "", "")
    dataset = Dataset(benchmark, title, [])
    run = _Run(dataset, ("paper",), segmenter, None, None, Path(output) if output else None)
    settings = _settings(run, 1, {"estimator": "stored with the data"})
    done = _kept(run.output, settings) if run.output else {}
    records = {}
    for sequence in progress(sequences, "sequences", len(sequences), quiet):
        record = done.get(sequence.name) or score_synthetic(segmenter, sequence)
        records[sequence.name] = record
        if run.output:
            _keep_record(run.output, sequence.name, record, settings)
    report = {
        **settings,
        "protocols": {"paper": PROTOCOLS["paper"]},
        "sequences": records,
        "mean": summarize_synthetic(records),
    }
    if run.output:
        _write_figures(run.output, report, dataset)
    return report


def _keep_record(output: Path, name: str, record: Record, settings: dict[str, Any]) -> None:
    # The settings come before the first record, so that no record is without them.
    write_json(output / _SETTINGS, settings)
    write_json(output / "sequences" / f"{name}.json", record)


def _evaluate_sequence(run: _Run, sequence: BenchmarkSequence, settings: dict) -> Record:
    truth = read_truth(sequence, run.dataset.benchmark)
    if run.segmenter is None:
        found = read_results(run.results, sequence, truth, run.protocols)
    else:
        whole = any(name != "paper" for name in run.protocols)
        found = predict_sequence(run.segmenter, sequence, run.flow, whole)
        if found.tracks is not None and run.output:
            folder = run.output / "masks" / "tracks" / sequence.name
            _keep_masks(folder, sequence.stems, found.tracks)
        found = found.at(truth.frames)
    matched = {name: match(name, found, truth) for name in run.protocols}
    if run.output and run.segmenter and "paper" in matched:
        stems = [sequence.stems[frame] for frame in truth.frames]
        _keep_masks(run.output / "masks" / "paper" / sequence.name, stems, matched["paper"])
    values = {name: measure(name, masks, truth) for name, masks in matched.items()}
    record = score_sequence(values, truth)
    if run.output:
        strip = sequence_strip(sequence, truth.frames, truth.ids, matched[run.protocols[0]])
        write_png(run.output / "strips" / f"{sequence.name}.png", strip)
        _keep_record(run.output, sequence.name, record, settings)
    return record


def _keep_masks(folder: Path, stems: list[str], ids: UInt8[np.ndarray, "t h w"]) -> None:
    for stem, frame in zip(stems, ids, strict=True):
        write_ids(folder / f"{stem}.png", frame)


def _settings(run: _Run, gap: int, stored: dict | None) -> dict[str, Any]:
    """Everything that the figures depend on, and the versions that made them."""
    segmenter = run.segmenter
    values = {
        "dataset": run.dataset.benchmark.name,
        "title": run.dataset.title,
        "results": os.fspath(run.results) if run.results else None,
        "weights": None,
        "weights_sha256": None,
        "flow": None,
        "gap": None,
        "grid": None,
        "window": None,
        "order_from": None,
        "protocol_names": list(run.protocols),
        "versions": {
            "oclr_jax": oclr_jax.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "jax": jax.__version__,
        },
    }
    if segmenter:
        model = segmenter.info.model
        if stored is None:
            estimator = model_estimator(run.flow, segmenter.info.flow)
            stored = estimator.settings() if estimator else {"folder": os.fspath(run.flow)}
        values |= {
            "weights": segmenter.info.name,
            "weights_sha256": fingerprint(segmenter.params),
            "flow": stored,
            "gap": gap,
            "grid": [model.height, model.width],
            "window": model.frames,
            "order_from": model.order_from,
        }
    return json.loads(json.dumps(values))


def fingerprint(params: Any) -> str:
    """Of parameters, so that figures of other weights under the same name are not kept."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _kept(output: Path, settings: dict[str, Any]) -> dict[str, Record]:
    """The records that are there already. UserError where they were made with other settings."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder for the results.")
    if not (output / _SETTINGS).is_file():
        present = [name for name in ("masks", "metrics.json") if (output / name).exists()]
        if present:
            raise UserError(
                f"The folder {output} already has results ({', '.join(present)}) of something "
                "else; choose another one."
            )
        return {}
    before = json.loads((output / _SETTINGS).read_text(encoding="utf-8"))
    other = sorted(key for key in settings if settings[key] != before.get(key))
    if other:
        raise UserError(
            f"The folder {output} already has results made with another {', '.join(other)}; choose "
            "another folder."
        )
    folder = output / "sequences"
    files = folder.glob("*.json") if folder.is_dir() else ()
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


def _write_figures(output: Path, report: dict[str, Any], dataset: Dataset) -> None:
    write_json(output / "metrics.json", report)
    write_csv(output / "metrics.csv", report)
    write_evaluation_page(output / "report.html", report, dataset.benchmark, output / "strips")

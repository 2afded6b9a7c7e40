"""From values per frame to figures per object, sequence and dataset."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from oclr_jax.datasets.benchmarks import Benchmark
from oclr_jax.evaluate.protocols import Values
from oclr_jax.evaluate.truth import Truth
from oclr_jax.ops.metrics import statistics, success_rates

# By protocol: which frames count, figures by object, and the sequence's own.
Record = dict[str, dict[str, Any]]


def score_sequence(values: dict[str, Values], truth: Truth) -> Record:
    """The figures of a sequence by protocol, from values by protocol, object and measure.

    J, F: mean, recall and decay; `values`: J in each frame that counts. A measure's mean over
    objects is the sequence's.
    """
    record: Record = {}
    for protocol, objects in values.items():
        figures = {name: _figures(measures) for name, measures in objects.items()}
        entry = {
            "frames": "all" if truth.counted(protocol) == slice(None) else "all but first and last",
            "objects": figures,
        }
        # Nothing is scored where the official rule sees no object in the first frame.
        for name in ("J", "F"):
            if means := [figure[name] for figure in figures.values() if name in figure]:
                entry[name] = float(np.mean(means))
        if truth.boxes:
            entry["overlaps"] = objects["1"]["J"].tolist()
            entry["motion"] = [box.motion for box in truth.boxes[truth.counted(protocol)]]
        record[protocol] = entry
    return record


def _figures(measures: dict[str, Float64[np.ndarray, "n"]]) -> dict[str, float]:
    figures = {}
    for name, values in measures.items():
        figures[name], figures[f"{name}_recall"], figures[f"{name}_decay"] = statistics(values)
    if "F" in figures:
        figures["J&F"] = (figures["J"] + figures["F"]) / 2
    return figures


def summarize(
    records: dict[str, Record], benchmark: Benchmark, protocols: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """The dataset's figures by protocol.

    A mean over sequences where each has one foreground; over all objects of all sequences, as the
    official multi-object evaluator has it, otherwise. For the boxes of MoCA, as its evaluator: J
    over sequences, success rates over all frames, of all motion and of each kind.
    """
    means = {}
    for protocol in protocols:
        entries = [record[protocol] for record in records.values()]
        if benchmark.boxes:
            means[protocol] = _detection(entries)
        else:
            # One foreground is one object, so that the mean over objects is that over sequences.
            figures = [figure for entry in entries for figure in entry["objects"].values()]
            names = figures[0] if figures else ()
            means[protocol] = {
                name: float(np.mean([figure[name] for figure in figures])) for name in names
            }
    return means


def _detection(entries: list[dict[str, Any]]) -> dict[str, float]:
    overlaps = np.concatenate([entry["overlaps"] for entry in entries])
    motion = np.concatenate([entry["motion"] for entry in entries])
    rates = success_rates(overlaps)
    j = np.mean([np.mean(entry["overlaps"]) for entry in entries])
    figures = {"J": float(j), "SR": float(rates.mean())}
    figures |= {f"SR_{0.5 + 0.1 * i:.1f}": float(rate) for i, rate in enumerate(rates)}
    for kind, name in enumerate(("locomotion", "deformation", "static")):
        if (motion == kind).any():
            figures[f"SR_{name}"] = float(success_rates(overlaps[motion == kind]).mean())
    return figures

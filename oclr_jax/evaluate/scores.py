"""Metrics per object, sequence and dataset, computed from metrics per frame."""

from typing import Any

import numpy as np
from jaxtyping import Float64

from oclr_jax.datasets.benchmarks import Benchmark
from oclr_jax.evaluate.protocols import Values, scored_on
from oclr_jax.evaluate.truth import Truth
from oclr_jax.ops.metrics import statistics, success_rates

# Metrics of the ids over a whole sequence, see `protocols.identity_metrics`.
IDENTITY = ("HOTA", "IDF1", "id_switches")
# By protocol: which frames are scored, metrics by object, and metrics of the sequence.
Record = dict[str, dict[str, Any]]


def score_sequence(
    values: dict[str, Values], truth: Truth, identity: dict[str, dict[str, float]] | None = None
) -> Record:
    """Computes the metrics of a sequence by protocol.

    J and F each have mean, recall and decay per object. The metrics of the sequence are means over
    its objects. On MoCA the record also has the IoU (`overlaps`) and the kind of motion of each
    frame.

    Args:
      values: by protocol, object and metric, one value per scored frame.
      truth: the ground truth.
      identity: by protocol, metrics of the ids over the whole sequence, if ids count.
    """
    record: Record = {}
    for protocol, objects in values.items():
        figures = {name: _figures(measures) for name, measures in objects.items()}
        entry = {
            "frames": "all" if truth.counted(protocol) == slice(None) else "all but first and last",
            "objects": figures,
        }
        # The official rule scores nothing if the first frame has no object.
        for name in ("J", "F"):
            if means := [figure[name] for figure in figures.values() if name in figure]:
                entry[name] = float(np.mean(means))
        if scored_on(protocol) == "flows":
            entry["count"] = len(truth.frames[truth.counted(protocol)])
        entry |= (identity or {}).get(protocol, {})
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
    """Computes the metrics of the dataset by protocol.

    They are means over sequences if each has one foreground; otherwise over all objects of all
    sequences, as in the official multi-object evaluator; in the evaluation of Motion Grouping, over
    all frames. Metrics of the ids are means over sequences. On MoCA, as in its evaluator, J is a
    mean over sequences, and success rates are means over frames: over all, and over each kind of
    motion.
    """
    means = {}
    for protocol in protocols:
        entries = [record[protocol] for record in records.values()]
        if benchmark.boxes:
            means[protocol] = _detection(entries)
        else:
            # One foreground is one object, so the mean over objects is the mean over sequences.
            figures = [figure for entry in entries for figure in entry["objects"].values()]
            names = figures[0] if figures else ()
            counts = [entry.get("count", 1) for entry in entries for _ in entry["objects"]]
            means[protocol] = {
                name: float(np.average([figure[name] for figure in figures], weights=counts))
                for name in names
            }
            means[protocol] |= _identity_means(entries)
    return means


def _identity_means(entries: list[dict[str, Any]]) -> dict[str, float]:
    """Means over sequences of the metrics of the ids, if there are any."""
    names = [name for name in IDENTITY if name in entries[0]]
    return {name: float(np.mean([entry[name] for entry in entries])) for name in names}


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

"""The HTML page of an evaluation, and the picture of each sequence on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from oclr_jax.datasets.benchmarks import VOID, Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.datasets.published import PUBLISHED, PublishedResult
from oclr_jax.show.grid import evenly_spaced, picture_grid
from oclr_jax.show.html import escape, format_number, note, picture, table, write_page
from oclr_jax.show.overlay import paint_ids
from oclr_jax.video.resize import resize_image

_STRIP_FRAMES = 5
_STRIP_WIDTH = 240  # pixels of one picture
_RANKED = 3  # worst and best sequences on the page, each


def sequence_strip(
    sequence: BenchmarkSequence,
    frames: list[int],
    truth: UInt8[np.ndarray, "t h w"],
    predicted: UInt8[np.ndarray, "t h w"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Some frames of a sequence: ground truth painted on them above, the prediction below.

    `frames` are the numbers of the annotated frames, which are those of `truth` and `predicted`.
    Void pixels are not painted.
    """
    rows = [], []
    for index in evenly_spaced(len(frames), _STRIP_FRAMES):
        frame = sequence.frame(frames[index])
        height = round(_STRIP_WIDTH * frame.shape[0] / frame.shape[1])
        masks = np.where(truth[index] == VOID, 0, truth[index]), predicted[index]
        for row, ids in zip(rows, masks, strict=True):
            row.append(resize_image(paint_ids(frame, ids), height, _STRIP_WIDTH))
    return picture_grid(rows)


def write_evaluation_page(
    path: Path,
    report: dict[str, Any],
    benchmark: Benchmark,
    strips: Path,
    baseline: dict[str, Any] | None = None,
) -> None:
    """Writes the page: means, published tables, worst and best sequences, objects, settings.

    Args:
      path: the file to write.
      report: the content of metrics.json.
      benchmark: the dataset.
      strips: folder with the picture of each sequence, `<sequence>.png`.
      baseline: the report of a baseline on the same flow, whose means are shown too.
    """
    reports = [report, baseline] if baseline else [report]
    parts = [
        f"<h1>{escape(report['title'])}</h1>",
        f"<p>{escape(_source(report))}</p>",
        _protocols(report),
        "<h2>Figures</h2>",
        _means(reports),
        _published(reports, benchmark),
        _worst_and_best(report, strips),
        "<h2>Every sequence and object</h2>",
        _objects(report),
        "<h2>Settings and versions</h2>",
        f"<pre>{escape(json.dumps(_settings(report), indent=1))}</pre>",
    ]
    write_page(path, report["title"], parts)


def _source(report: dict[str, Any]) -> str:
    if report["results"]:
        return f"Masks in {report['results']}."
    flow = report["flow"]
    return (
        f"Weights {report['weights']} on a grid of {'x'.join(map(str, report['grid']))}, windows "
        f"of {report['window']} frames, flow {flow.get('estimator', flow.get('folder'))} at gap "
        f"{report['gap']}, refiners: {', '.join(r['name'] for r in report['refiners']) or 'none'}, "
        f"human annotation: {report['human_annotation']}."
    )


def _protocols(report: dict[str, Any]) -> str:
    items = [
        f"<li><b>{escape(name)}</b> (on {report['scored_on'][name]}): {escape(description)}</li>"
        for name, description in report["protocols"].items()
    ]
    return f"<ul>{''.join(items)}</ul>"


def _means(reports: list[dict[str, Any]]) -> str:
    means = [
        (report["model"] or "masks", report["scored_on"][protocol], protocol, row)
        for report in reports
        for protocol, row in report["mean"].items()
    ]
    names = list(dict.fromkeys(name for *_, row in means for name in row))
    rows = [
        [protocol, scored, model, *(format_number(row.get(name)) for name in names)]
        for model, scored, protocol, row in means
    ]
    return table(["protocol", "scored on", "model", *names], rows, numbers_from=3)


def _published(reports: list[dict[str, Any]], benchmark: Benchmark) -> str:
    published = PUBLISHED.get(benchmark.name, [])
    if not published:
        return ""
    names = list(dict.fromkeys(name for row in published for name in row.figures))
    head = ["paper", "method", "human labels", "input", "resolution", "flow gap", "protocol"]
    ours = [_our_row(each, protocol, names) for each in reports for protocol in each["mean"]]
    rows = [*ours, *(_published_row(row, names) for row in published)]
    return (
        "<h2>Beside the papers' tables</h2>"
        + table([*head, *names], rows, numbers_from=len(head), highlighted=range(len(ours)))
        + note(
            "The published figures are on the whole benchmark, with RAFT flow. Figures on a part "
            "of the sequences, or under another protocol, are not comparable with them. The "
            "geometric baseline, without any learning, is on the flow of this run."
        )
    )


def _our_row(report: dict[str, Any], protocol: str, names: list[str]) -> list[str]:
    """The row of this run under one protocol, in the units of the published tables."""
    means = report["mean"][protocol]
    figures = {name: means[name] * (1 if name == "SR" else 100) for name in names if name in means}
    if report["results"]:
        method, labels, inputs, grid = "masks of a folder", "", "", ""
    else:
        named = dict.fromkeys([report["model"], report["weights"]])  # once where they are the same
        method, labels = f"this run: {', '.join(name for name in named if name != 'oclr')}", "no"
        inputs = report.get("inputs", "flow")
        if report["refiners"] and report["scored_on"][protocol] == "tracks":
            method = " + ".join([method, *(refiner["name"] for refiner in report["refiners"])])
            inputs = "flow, RGB"
            labels = "yes" if report["human_annotation"] == "used" else "no"
        grid = "x".join(map(str, report["grid"]))
    settings = ["", method, labels, inputs, grid, str(report["gap"] or ""), protocol]
    return settings + _figures(figures, names)


def _published_row(row: PublishedResult, names: list[str]) -> list[str]:
    settings = [row.paper, row.method, row.labels, row.inputs, row.resolution, str(row.gap or "")]
    return [*settings, "as published", *_figures(row.figures, names)]


def _figures(figures: dict[str, float], names: list[str]) -> list[str]:
    return [format_number(figures.get(name), 3 if name == "SR" else 1) for name in names]


def _worst_and_best(report: dict[str, Any], strips: Path) -> str:
    protocol = next(iter(report["protocols"]))
    scored = {
        name: record[protocol]["J"]
        for name, record in report["sequences"].items()
        if "J" in record[protocol] and (strips / f"{name}.png").is_file()
    }
    if not scored:
        return ""
    order = sorted(scored, key=scored.get)
    count = min(_RANKED, (len(order) + 1) // 2)
    parts = [
        "<h2>Worst and best sequences</h2>",
        note(f"Ground truth above, prediction below; protocol {protocol}."),
    ]
    for title, names in (("Worst", order[:count]), ("Best", order[::-1][:count])):
        for name in names:
            parts.append(f"<h3>{title}: {escape(name)}, J {scored[name]:.3f}</h3>")
            parts.append(picture(name, (strips / f"{name}.png").read_bytes()))
    return "".join(parts)


def _objects(report: dict[str, Any]) -> str:
    entries = [
        (sequence, protocol, entry)
        for sequence, record in report["sequences"].items()
        for protocol, entry in record.items()
    ]
    names = list(
        dict.fromkeys(
            name for *_, entry in entries for row in entry["objects"].values() for name in row
        )
    )
    rows = [
        [sequence, id, protocol, entry["frames"], *(format_number(row.get(n)) for n in names)]
        for sequence, protocol, entry in entries
        for id, row in entry["objects"].items()
    ]
    return table(["sequence", "object", "protocol", "frames", *names], rows, numbers_from=4)


def _settings(report: dict[str, Any]) -> dict[str, Any]:
    figures = ("sequences", "mean", "protocols", "scored_on")
    return {name: value for name, value in report.items() if name not in figures}

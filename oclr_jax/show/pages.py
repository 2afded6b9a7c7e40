"""The one place that makes HTML pages: of an evaluation, a training or a dataset; whole files."""

import base64
import html
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from oclr_jax.datasets.benchmarks import VOID, Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.datasets.published import PUBLISHED
from oclr_jax.files import replacing
from oclr_jax.show.overlay import paint_ids
from oclr_jax.video.resize import resize_image

_TILES = 5  # frames of a strip
_TILE_WIDTH = 240  # pixels
_SHOWN = 3  # sequences at either end that the page shows
_SCORES_SHOWN = 20  # evaluations of a training, the newest
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; margin: .6rem 0 1.6rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number, th.number { text-align: right; }
tr.ours { background: #fff4cf; font-weight: 600; }
tr.mean { border-top: 2px solid #555; font-weight: 600; }
img { max-width: 100%; display: block; margin: .2rem 0 1rem; }
p.note { color: #555; }
pre { white-space: pre-wrap; }
td { overflow-wrap: anywhere; }
td:first-child, td.number { white-space: nowrap; }
div.strips { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 0 1 24rem; }
figure img { width: 100%; image-rendering: pixelated; }
"""


def sequence_strip(
    sequence: BenchmarkSequence,
    frames: list[int],
    truth: UInt8[np.ndarray, "t h w"],
    found: UInt8[np.ndarray, "t h w"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Some frames of a sequence: above the truth painted over them, below what was found.

    `frames` are the numbers of the annotated frames, which `truth` and `found` have.
    """
    chosen = np.unique(
        np.linspace(0, len(frames) - 1, min(_TILES, len(frames))).round().astype(int)
    )
    columns = []
    for index in chosen:
        frame = sequence.frame(frames[index])
        height = round(_TILE_WIDTH * frame.shape[0] / frame.shape[1])
        masks = np.where(truth[index] == VOID, 0, truth[index]), found[index]
        tiles = [resize_image(paint_ids(frame, ids), height, _TILE_WIDTH) for ids in masks]
        columns.append(np.concatenate(tiles))
    return np.concatenate(columns, axis=1)


def write_report(path: Path, report: dict[str, Any], benchmark: Benchmark, strips: Path) -> None:
    """Writes an evaluation's page: figures, papers' tables, worst and best sequences, settings.

    `report` is what metrics.json holds; `strips` holds `<sequence>.png`. Pictures are inside the
    page.
    """
    parts = [
        f"<h1>{_text(report['title'])}</h1>",
        f"<p>{_text(_scored(report))}</p>",
        _protocols(report),
        "<h2>Figures</h2>",
        _means(report),
        _published(report, benchmark),
        _worst_and_best(report, strips),
        "<h2>Every sequence and object</h2>",
        _objects(report),
        "<h2>Settings and versions</h2>",
        f"<pre>{_text(json.dumps(_settings(report), indent=1))}</pre>",
    ]
    _write_page(path, report["title"], parts)


@dataclass(frozen=True)
class Training:
    """What the page of a training shows.

    name: of the weights that it makes.
    steps: done, and wanted.
    command: how it was started, or "".
    scores: name to value for every evaluation, its step included.
    phases: seconds spent in each, over the whole training.
    environment: versions, devices and the state of the checkout, as plain text.
    config: field to value, nested fields joined by dots.
    curves: a PNG.
    strips: title of each validation clip to its pictures, caption to PNG.
    """

    name: str
    steps: tuple[int, int]
    command: str
    scores: list[dict[str, Any]]
    phases: dict[str, float]
    environment: dict[str, str]
    config: dict[str, Any]
    curves: bytes
    strips: dict[str, dict[str, bytes]]


def write_training_report(path: str | os.PathLike, training: Training) -> None:
    """Writes a training's page: scores, curves, clips, time, environment, configuration."""
    done, wanted = training.steps
    title = f"Training of {training.name}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>Step {done:,} of {wanted:,}{': finished' * (done >= wanted)}.</p>",
        f"<pre>{_text(training.command)}</pre>" if training.command else "",
        "<h2>Validation</h2>",
        _scores(training.scores),
        "<h2>Curves</h2>",
        _picture("curves over the steps", training.curves),
        "<h2>Validation clips</h2>",
        '<p class="note">The same clips at every evaluation. Rows: flow to the next frame; what is '
        "seen of each layer, true and predicted; whole layers, true and predicted. A predicted "
        "layer's colour is its query's.</p>",
        _clips(training.strips),
        "<h2>Time by phase</h2>",
        _phases(training.phases),
        "<h2>Environment</h2>",
        _pairs(training.environment),
        "<h2>Configuration</h2>",
        _pairs(training.config),
    ]
    _write_page(path, title, parts)


def write_dataset_report(
    path: str | os.PathLike,
    title: str,
    head: list[str],
    rows: list[list[str]],
    histograms: dict[str, bytes],
    clips: dict[str, bytes],
) -> None:
    """Writes the page of a dataset: its statistics, and what some of its clips look like.

    Args:
      head, rows: of the table of statistics; from the third column on they are numbers.
      histograms: what each shows, to a PNG.
      clips: name to a PNG.
    """
    parts = [
        f"<h1>{_text(title)}</h1>",
        _table(head, rows, numbers_from=2),
        *(_picture(name, png) for name, png in histograms.items()),
    ]
    for name, png in clips.items():
        parts += [f"<h2>{_text(name)}</h2>", _picture(name, png)]
    _write_page(path, title, parts)


def _scores(scores: list[dict[str, Any]]) -> str:
    if not scores:
        return '<p class="note">Not evaluated yet.</p>'
    names = [name for name in dict.fromkeys(n for row in scores for n in row) if name != "step"]
    rows = [[f"{row['step']:,}", *(_number(row.get(n), 4) for n in names)] for row in scores]
    return _table(["step", *names], rows[-_SCORES_SHOWN:], numbers_from=0)


def _clips(strips: dict[str, dict[str, bytes]]) -> str:
    if not strips:
        return '<p class="note">None drawn yet.</p>'
    parts = []
    for title, pictures in strips.items():
        shown = "".join(
            f"<figure><figcaption>{_text(caption)}</figcaption>{_picture(title, png)}</figure>"
            for caption, png in pictures.items()
        )
        parts.append(f'<h3>{_text(title)}</h3><div class="strips">{shown}</div>')
    return "".join(parts)


def _phases(phases: dict[str, float]) -> str:
    total = sum(phases.values())
    rows = [
        [name, f"{seconds:,.1f}", f"{seconds / total:.1%}" if total else ""]
        for name, seconds in [*phases.items(), ("all", total)]
    ]
    return _table(["phase", "seconds", "share"], rows, numbers_from=1)


def _pairs(values: dict[str, Any]) -> str:
    return _table(["", ""], [[name, str(value)] for name, value in values.items()], numbers_from=2)


def _picture(name: str, png: bytes) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{_text(name)}" src="data:image/png;base64,{data}">'


def _write_page(path: str | os.PathLike, title: str, parts: list[str]) -> None:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _scored(report: dict[str, Any]) -> str:
    if report["results"]:
        return f"Masks in {report['results']}."
    flow = report["flow"]
    return (
        f"Weights {report['weights']} on a grid of {'x'.join(map(str, report['grid']))}, windows "
        f"of {report['window']} frames, flow {flow.get('estimator', flow.get('folder'))} at gap "
        f"{report['gap']}."
    )


def _protocols(report: dict[str, Any]) -> str:
    items = [
        f"<li><b>{_text(name)}</b>: {_text(what)}</li>"
        for name, what in report["protocols"].items()
    ]
    return f"<ul>{''.join(items)}</ul>"


def _means(report: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for row in report["mean"].values() for name in row))
    rows = [
        [protocol, *(_number(row.get(name)) for name in names)]
        for protocol, row in report["mean"].items()
    ]
    return _table(["protocol", *names], rows, numbers_from=1)


def _published(report: dict[str, Any], benchmark: Benchmark) -> str:
    rows = PUBLISHED.get(benchmark.name, [])
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row.figures))
    head = ["paper", "method", "human labels", "input", "resolution", "flow gap", "protocol"]
    table, ours = [], []
    for protocol, figures in report["mean"].items():
        shown = [
            _number(figures[name] * (1 if name == "SR" else 100), 1 if name != "SR" else 3)
            if name in figures
            else ""
            for name in names
        ]
        grid = "x".join(map(str, report["grid"])) if report["grid"] else ""
        what = "masks of a folder" if report["results"] else f"this run: {report['weights']}"
        used = ["" if report["results"] else "no", "" if report["results"] else "flow"]
        ours.append(len(table))
        table.append(["", what, *used, grid, str(report["gap"] or ""), protocol, *shown])
    for row in rows:
        shown = [_number(row.figures[name], 1 if name != "SR" else 3) for name in names]
        used = [row.labels, row.inputs, row.resolution, str(row.gap or "")]
        table.append([row.paper, row.method, *used, "as published", *shown])
    note = (
        "The papers' figures are on the whole benchmark, with RAFT flow; a figure on some of its "
        "sequences, or under another protocol, is not to be compared with them."
    )
    return (
        "<h2>Beside the papers' tables</h2>"
        + _table([*head, *names], table, numbers_from=len(head), ours=ours)
        + f'<p class="note">{note}</p>'
    )


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
    count = min(_SHOWN, (len(order) + 1) // 2)
    parts = [
        "<h2>Worst and best sequences</h2>",
        f'<p class="note">Above the annotation, below what was found, protocol {_text(protocol)}.'
        "</p>",
    ]
    for title, names in (("Worst", order[:count]), ("Best", order[::-1][:count])):
        for name in names:
            parts.append(f"<h3>{title}: {_text(name)}, J {scored[name]:.3f}</h3>")
            parts.append(_picture(name, (strips / f"{name}.png").read_bytes()))
    return "".join(parts)


def _objects(report: dict[str, Any]) -> str:
    names, rows = [], []
    for record in report["sequences"].values():
        for entry in record.values():
            for figures in entry["objects"].values():
                names = list(dict.fromkeys([*names, *figures]))
    for sequence, record in report["sequences"].items():
        for protocol, entry in record.items():
            for object, figures in entry["objects"].items():
                shown = [_number(figures.get(name)) for name in names]
                rows.append([sequence, object, protocol, entry["frames"], *shown])
    return _table(["sequence", "object", "protocol", "frames", *names], rows, numbers_from=4)


def _settings(report: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in report.items()
        if name not in ("sequences", "mean", "protocols")
    }


def _table(
    head: list[str], rows: Iterable[list[str]], numbers_from: int, ours: Iterable[int] = ()
) -> str:
    def cells(row: list[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if column >= numbers_from else ''}>{_text(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )

    body = "".join(
        f"<tr{' class=ours' if number in ours else ''}>{cells(row, 'td')}</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><tr>{cells(head, 'th')}</tr>{body}</table>"


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _text(value: Any) -> str:
    return html.escape(str(value))

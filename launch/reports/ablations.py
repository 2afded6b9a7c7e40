"""Finished trainings beside the first paper's tables E6 to E8: `tables.py ablations`.

The figures come from `oclr evaluate --weights WORKDIR/weights.safetensors --output
WORKDIR/evaluation/NAME`, protocol `paper`. Mean and standard deviation are over seeds.
"""

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.oclr_flow import get_config
from oclr_jax.datasets.ablations import (
    COLUMNS,
    E6,
    E7,
    E8,
    EXPERIMENTS,
    REPEATED,
    REPEATS,
    REPEATS_MEAN,
    REPEATS_STD,
    TITLES,
    Experiment,
)
from oclr_jax.errors import UserError
from oclr_jax.evaluate.settings import params_digest
from oclr_jax.files import replacing
from oclr_jax.train.settings import RESUMABLE_FIELDS
from oclr_jax.weights.file import load_weights

# For each column: dataset and title of the evaluation, and the name of the mean. Synthetic datasets
# are our own, not the paper's.
SOURCES = {
    "DAVIS2016": ("davis2016", "DAVIS2016", "J"),
    "SegTrackv2": ("segtrack_v2", "SegTrackv2", "J"),
    "DAVIS2017-motion": ("davis2017_motion", "DAVIS2017-motion", "J"),
    "Syn-Single": ("oclr_syn", "oclr_syn (syn_single)", "J"),
    "Syn-Val modal": ("oclr_syn", "oclr_syn (syn_val)", "J"),
    "Syn-Val amodal": ("oclr_syn", "oclr_syn (syn_val)", "J_amodal"),
}
PROTOCOL = "paper"
# Fields that do not define the experiment: where and how a run executes.
IGNORED_FIELDS = RESUMABLE_FIELDS - {"steps", "data.validation"}
IGNORED_FIELDS |= {"seed", "length_unit", "data.images", "data.silhouettes", "data.videos"}
NOT_EVALUATED, NOT_TRAINED = "not evaluated", "no finished training"


@dataclass(frozen=True)
class Figure:
    """The score of one run on one benchmark.

    value: J in percent.
    conditions: the part of the benchmark, if not all of it, and the flow. Only figures with equal
      conditions are averaged.
    """

    value: float
    conditions: str


@dataclass(frozen=True)
class Run:
    """A finished run. `changed`: fields that differ from the paper's experiment."""

    workdir: Path
    experiment: str
    seed: int
    changed: tuple[str, ...]
    figures: dict[str, Figure]


def read_run(workdir: Path, notes: list[str]) -> Run | None:
    """The run in a workdir, or None, with a note, if it does not count.

    Raises UserError if the folder is not a workdir.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} is not a training workdir: it has no config.json.")
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    experiment = config.get("experiment", "")
    if experiment not in {each.name for each in EXPERIMENTS}:
        notes.append(f"{workdir} is skipped: it is not one of the paper's experiments.")
        return None
    weights = workdir / "weights.safetensors"
    if not weights.is_file():
        notes.append(f"{workdir} is skipped: it has no weights yet.")
        return None
    params, info = load_weights(weights)
    if info.card["steps"] < config["steps"]:
        done = f"{info.card['steps']:,} of {config['steps']:,}"
        notes.append(f"{workdir} is skipped: it is not finished (step {done}).")
        return None
    reports = _reports(workdir, params_digest(params), notes)
    figures = {name: find(reports, name) for name in SOURCES}
    return Run(
        workdir=workdir,
        experiment=experiment,
        seed=config["seed"],
        changed=changed_fields(config, experiment),
        figures={name: figure for name, figure in figures.items() if figure is not None},
    )


def _reports(workdir: Path, weights: str, notes: list[str]) -> list[dict[str, Any]]:
    """The evaluations of these weights below a workdir."""
    found = []
    for path in sorted(workdir.rglob("metrics.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["weights_sha256"] != weights:
            notes.append(f"{path} belongs to other weights than {workdir}/weights.safetensors.")
        elif PROTOCOL not in report["mean"]:
            notes.append(f"{path} has no figures of the protocol {PROTOCOL}.")
        else:
            found.append(report)
    return found


def find(reports: list[dict[str, Any]], column: str) -> Figure | None:
    """The figure for a column. Of several evaluations, the one with the most sequences."""
    dataset, title, mean = SOURCES[column]
    matching = [
        report
        for report in reports
        if report["dataset"] == dataset and report["title"].startswith(title)
    ]
    if not matching:
        return None
    report = max(matching, key=lambda report: len(report["sequences"]))
    part = report["title"].removeprefix(title).strip(", ")
    flow = report["flow"].get("estimator", "folder") if dataset != "oclr_syn" else ""
    conditions = ", ".join(filter(None, (part, f"{flow} flow" * bool(flow))))
    return Figure(100 * report["mean"][PROTOCOL][mean], conditions)


def changed_fields(config: dict[str, Any], experiment: str) -> tuple[str, ...]:
    """Fields in which a configuration differs from the paper's experiment."""
    ours, theirs = _flat(config), _flat(json.loads(get_config(experiment).to_json_best_effort()))
    return tuple(
        f"{name}={ours[name]}"
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name] != theirs[name] and name not in IGNORED_FIELDS
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= inner if inner is not None else {f"{prefix}{name}": value}
    return flat


def group_runs(runs: list[Run]) -> dict[tuple[str, tuple[str, ...]], list[Run]]:
    """Groups runs that differ only in their seed, sorted by seed.

    Raises UserError if two runs of a group have the same seed.
    """
    groups = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seed):
        group = groups[run.experiment, run.changed]
        if group and group[-1].seed == run.seed:
            raise UserError(
                f"{group[-1].workdir} and {run.workdir} are the same experiment with the same "
                "seed; give only one of them."
            )
        group.append(run)
    return groups


@dataclass(frozen=True)
class Cell:
    """The figures of one column over the runs of a group, or the reason why there are none."""

    values: tuple[float, ...]
    conditions: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        text = f"{np.mean(self.values):.1f}"
        if len(self.values) > 1:
            text += f" ± {np.std(self.values):.1f} (n = {len(self.values)})"
        return f"{text} [{self.conditions}]" if self.conditions else text


def make_cell(runs: list[Run], column: str) -> Cell:
    """The figures of a column for a group of runs, if their conditions are equal."""
    figures = [run.figures[column] for run in runs if column in run.figures]
    if not figures:
        return Cell((), reason=NOT_EVALUATED)
    conditions = {figure.conditions for figure in figures}
    if len(conditions) > 1:
        return Cell((), reason="evaluated under different conditions")
    return Cell(tuple(figure.value for figure in figures), conditions.pop())


@dataclass(frozen=True)
class Table:
    """A table of the paper, with our columns after the paper's."""

    name: str
    head: list[str]
    rows: list[list[str]]


def make_tables(runs: list[Run]) -> list[Table]:
    """Tables E6, E7 and E8. The paper's figures and ours are in separate columns."""
    groups = group_runs(runs)
    return [_ablation(E6, groups), _ablation(E7, groups), _repeats(groups)]


def _ours(column: str) -> str:
    own = SOURCES[column][0] == "oclr_syn"
    return f"ours: {'own ' if own else ''}{column}"


def _ablation(table: str, groups: dict) -> Table:
    columns = COLUMNS[table]
    head = ["experiment", "table 1", "setting", *(f"paper: {name}" for name in columns)]
    head += ["our settings", "seeds", *map(_ours, columns)]
    rows = []
    for experiment in (each for each in EXPERIMENTS if each.table == table):
        theirs = _title(experiment), experiment.table_1, experiment.setting
        figures = [f"{figure:.1f}" for figure in experiment.figures]
        of_it = {key: runs for key, runs in groups.items() if key[0] == experiment.name}
        for (_, changed), runs in of_it.items():
            seeds = ", ".join(str(run.seed) for run in runs)
            cells = [str(make_cell(runs, column)) for column in columns]
            rows.append([*theirs, *figures, _settings(changed), seeds, *cells])
        if not of_it:
            rows.append([*theirs, *figures, NOT_TRAINED, "", *[""] * len(columns)])
    return Table(table, head, rows)


def _repeats(groups: dict) -> Table:
    columns = COLUMNS[E8]
    head = ["repeat", *(f"paper: {name}" for name in columns), "our settings", "seed"]
    head += [_ours(column) for column in columns]
    blank = [""] * len(columns)
    theirs = [[f"{figure:.1f}" for figure in row] for row in REPEATS]
    ours = []
    for (experiment, changed), runs in groups.items():
        if experiment == REPEATED:
            for run in runs:
                cells = [str(make_cell([run], column)) for column in columns]
                ours.append([_settings(changed), str(run.seed), *cells])
    rows = []
    for number in range(max(len(theirs), len(ours))):
        left = theirs[number] if number < len(theirs) else blank
        right = ours[number] if number < len(ours) else ["", NOT_TRAINED, *blank]
        rows.append([str(number + 1), *left, *right])
    mean, std = ([f"{x:.1f}" for x in row] for row in (REPEATS_MEAN, REPEATS_STD))
    rows.append(["mean", *mean, "", "", *blank])
    rows.append(["std", *std, "", "", *blank])
    for (experiment, changed), runs in groups.items():
        if experiment == REPEATED:
            cells = [str(make_cell(runs, column)) for column in columns]
            rows.append(["mean ± std", *blank, _settings(changed), "all", *cells])
    return Table(E8, head, rows)


def _title(experiment: Experiment) -> str:
    return f"Ours-{experiment.name[-1].upper()}"


def _settings(changed: tuple[str, ...]) -> str:
    return "; ".join(changed) if changed else "the paper's"


def to_markdown(tables: list[Table], notes: list[str]) -> str:
    """The tables, with an explanation of the columns, and notes."""
    lines = []
    for table in tables:
        lines += [f"## {TITLES[table.name]}", ""]
        lines += [markdown_line(table.head), markdown_line(["---"] * len(table.head))]
        lines += [*map(markdown_line, table.rows), ""]
    lines += [
        "J in percent. The paper's columns are as published: RAFT flow, its own synthetic data. "
        f"Our columns use the protocol `{PROTOCOL}` and the flow named in brackets. Own Syn-Val "
        "and Syn-Single come from our generator and are not comparable with the paper's columns. "
        "± is the standard deviation over seeds, divided by n as in the paper. "
        f"`{NOT_EVALUATED}`: run `oclr evaluate --dataset NAME --data DATA --weights "
        "WORKDIR/weights.safetensors --output WORKDIR/evaluation/NAME`.",
        "",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def markdown_line(cells: list[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_csv(tables: list[Table]) -> str:
    """The same rows as CSV. The first column is the table; every table has its own header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.head])
        writer.writerows([table.name, *row] for row in table.rows)
    return text.getvalue()


def write_ablations(workdirs: list[Path], output: Path | None) -> None:
    """Prints tables E6 to E8 with the figures of finished trainings.

    Args:
      workdirs: of the variants ours_a to ours_i.
      output: folder for results.md and results.csv, or None.

    Raises:
      UserError: a folder is not a workdir, or two are the same experiment with the same seed.
    """
    notes: list[str] = []
    runs = [run for workdir in workdirs if (run := read_run(workdir, notes))]
    tables = make_tables(runs)
    markdown = to_markdown(tables, notes)
    if output:
        for name, text in (("results.md", markdown), ("results.csv", to_csv(tables))):
            with replacing(output / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    print(markdown, end="")

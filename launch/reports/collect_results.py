"""Sets finished trainings beside the paper's tables E6 to E8: markdown, and CSV with --output.

`python launch/reports/collect_results.py workdirs/ours_* --output results`. The figures are those
that `oclr evaluate --weights WORKDIR/weights.safetensors --output WORKDIR/evaluation/NAME` left in
the workdirs, under the protocol `paper`. Mean and standard deviation are over seeds.
"""

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# `launch` is run from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

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
from oclr_jax.evaluate.run import fingerprint
from oclr_jax.files import replacing
from oclr_jax.weights.segmentation import load_weights

# A column's figure: dataset and title of the evaluation, and the name of the mean. What is measured
# on synthetic data is measured on our own, which is not the paper's.
SOURCES = {
    "DAVIS2016": ("davis2016", "DAVIS2016", "J"),
    "SegTrackv2": ("segtrack_v2", "SegTrackv2", "J"),
    "DAVIS2017-motion": ("davis2017_motion", "DAVIS2017-motion", "J"),
    "Syn-Single": ("oclr_syn", "oclr_syn (syn_single)", "J"),
    "Syn-Val modal": ("oclr_syn", "oclr_syn (syn_val)", "J"),
    "Syn-Val amodal": ("oclr_syn", "oclr_syn (syn_val)", "J_amodal"),
}
PROTOCOL = "paper"
# Fields that say where and how a training runs, and not what is trained.
PRACTICAL = (
    "name", "seed", "experiment", "parallel", "accumulate", "strips", "validation_clips",
    "counted_in", "log_every", "evaluate_every", "checkpoint_every", "keep_", "on_nonfinite",
    "max_skips", "accept_changes", "export_dtype", "model.remat", "model.compute_dtype", "data.dir",
    "data.workers", "data.images", "data.silhouettes", "data.videos",
)  # fmt: skip
MISSING, NOBODY = "not evaluated", "no finished training"


@dataclass(frozen=True)
class Figure:
    """What one training scored on one benchmark, in percent.

    `terms`: what a figure must share with another to be averaged with it: the part of the
    benchmark, where that is not the whole, and the flow.
    """

    value: float
    terms: str


@dataclass(frozen=True)
class Run:
    """A finished training. `changed`: fields in which it is not the paper's experiment."""

    workdir: Path
    experiment: str
    seed: int
    changed: tuple[str, ...]
    figures: dict[str, Figure]


def read_run(workdir: Path, notes: list[str]) -> Run | None:
    """The training of a workdir, or None with a note that says why it does not count.

    Raises UserError for a folder that is no workdir.
    """
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} is not the workdir of a training: it has no config.json.")
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    experiment = config.get("experiment", "")
    if experiment not in {each.name for each in EXPERIMENTS}:
        notes.append(f"{workdir} is none of the paper's experiments, and left out.")
        return None
    weights = workdir / "weights.safetensors"
    if not weights.is_file():
        notes.append(f"{workdir} has no weights yet, and is left out.")
        return None
    params, info = load_weights(weights)
    if info.card["steps"] < config["steps"]:
        done = f"{info.card['steps']:,} of {config['steps']:,}"
        notes.append(f"{workdir} has weights of step {done}: not finished, and left out.")
        return None
    reports = _reports(workdir, fingerprint(params), notes)
    figures = {name: find(reports, name) for name in SOURCES}
    return Run(
        workdir=workdir,
        experiment=experiment,
        seed=config["seed"],
        changed=changed_fields(config, experiment),
        figures={name: figure for name, figure in figures.items() if figure is not None},
    )


def _reports(workdir: Path, weights: str, notes: list[str]) -> list[dict[str, Any]]:
    """What `oclr evaluate` left of these weights below a workdir."""
    found = []
    for path in sorted(workdir.rglob("metrics.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["weights_sha256"] != weights:
            notes.append(f"{path} is of other weights than {workdir}/weights.safetensors.")
        elif PROTOCOL not in report["mean"]:
            notes.append(f"{path} has no figures of the protocol {PROTOCOL}.")
        else:
            found.append(report)
    return found


def find(reports: list[dict[str, Any]], column: str) -> Figure | None:
    """A column's figure among evaluations; of several, the first of those of most sequences."""
    dataset, title, mean = SOURCES[column]
    fitting = [
        report
        for report in reports
        if report["dataset"] == dataset and report["title"].startswith(title)
    ]
    if not fitting:
        return None
    report = max(fitting, key=lambda report: len(report["sequences"]))
    part = report["title"].removeprefix(title).strip(", ")
    flow = report["flow"].get("estimator", "folder") if dataset != "oclr_syn" else ""
    terms = ", ".join(filter(None, (part, f"{flow} flow" * bool(flow))))
    return Figure(100 * report["mean"][PROTOCOL][mean], terms)


def changed_fields(config: dict[str, Any], experiment: str) -> tuple[str, ...]:
    """Fields in which a training's configuration is not that of the paper's experiment."""
    ours, theirs = _flat(config), _flat(json.loads(get_config(experiment).to_json_best_effort()))
    return tuple(
        f"{name}={ours[name]}"
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name] != theirs[name] and not name.startswith(PRACTICAL)
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= inner if inner is not None else {f"{prefix}{name}": value}
    return flat


def group_runs(runs: list[Run]) -> dict[tuple[str, tuple[str, ...]], list[Run]]:
    """Trainings that differ in their seed alone, in its order.

    Raises UserError where two have the same seed too.
    """
    groups = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seed):
        group = groups[run.experiment, run.changed]
        if group and group[-1].seed == run.seed:
            raise UserError(
                f"{group[-1].workdir} and {run.workdir} are the same training with the same seed; "
                "give one of them."
            )
        group.append(run)
    return groups


@dataclass(frozen=True)
class Cell:
    """Figures of one column over the trainings of a group."""

    values: tuple[float, ...]
    terms: str = ""
    instead: str = ""  # why there is none

    def __str__(self) -> str:
        if self.instead:
            return self.instead
        text = f"{np.mean(self.values):.1f}"
        if len(self.values) > 1:
            text += f" ± {np.std(self.values):.1f} (n = {len(self.values)})"
        return f"{text} [{self.terms}]" if self.terms else text


def make_cell(runs: list[Run], column: str) -> Cell:
    """A column's figures of a group of trainings, if they are of the same terms."""
    figures = [run.figures[column] for run in runs if column in run.figures]
    if not figures:
        return Cell((), instead=MISSING)
    terms = {figure.terms for figure in figures}
    if len(terms) > 1:
        return Cell((), instead="evaluated on unlike terms")
    return Cell(tuple(figure.value for figure in figures), terms.pop())


@dataclass(frozen=True)
class Table:
    """A table of the paper with our columns behind the paper's own."""

    name: str
    head: list[str]
    rows: list[list[str]]


def make_tables(runs: list[Run]) -> list[Table]:
    """Tables E6, E7 and E8; the paper's figures and ours never share a column."""
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
            rows.append([*theirs, *figures, NOBODY, "", *[""] * len(columns)])
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
        right = ours[number] if number < len(ours) else ["", NOBODY, *blank]
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
    """The tables, what the columns are, and notes."""
    lines = []
    for table in tables:
        lines += [f"## {TITLES[table.name]}", ""]
        lines += [_line(table.head), _line(["---"] * len(table.head))]
        lines += [*map(_line, table.rows), ""]
    lines += [
        "J in percent. The paper's columns are as published: RAFT flow, its own synthetic data. "
        f"Ours are of the protocol `{PROTOCOL}`, with the flow that they name; own Syn-Val and "
        "Syn-Single are our generator's, and not to be compared with the paper's columns. ± is the "
        "standard deviation over seeds, divided by n as in the paper. "
        f"`{MISSING}`: run `oclr evaluate --dataset NAME --data DATA --weights "
        "WORKDIR/weights.safetensors --output WORKDIR/evaluation/NAME`.",
        "",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_csv(tables: list[Table]) -> str:
    """The same rows; the table's name comes first, and every table has its own head."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for table in tables:
        writer.writerow(["table", *table.head])
        writer.writerows([table.name, *row] for row in table.rows)
    return text.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and prints or writes the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", type=Path, help="of trainings of ours_a to ours_i")
    parser.add_argument("--output", type=Path, help="folder for results.md and results.csv")
    options = parser.parse_args(arguments)
    notes: list[str] = []
    try:
        runs = [run for workdir in options.workdirs if (run := read_run(workdir, notes))]
        tables = make_tables(runs)
        markdown = to_markdown(tables, notes)
        if options.output:
            for name, text in (("results.md", markdown), ("results.csv", to_csv(tables))):
                with replacing(options.output / name) as temporary:
                    temporary.write_text(text, encoding="utf-8")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(markdown, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

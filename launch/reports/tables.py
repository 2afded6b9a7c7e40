"""The tables of both papers: the command for each row, what it needs, and what was measured.

`python launch/reports/tables.py page --output docs/reproduce.md` writes the page. `add RUN...`
takes the figures of evaluations (`oclr evaluate --output RUN`) into launch/reports/measured.json,
from where they get into the page. `ablations WORKDIR...` puts finished trainings beside tables E6
to E8.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch.reports.ablations import markdown_line, write_ablations
from launch.reports.paper_rows import PaperTable, Row, Setting
from launch.reports.paper_tables import FIRST_PAPER, SECOND_PAPER
from oclr_jax.command import run_command
from oclr_jax.errors import UserError
from oclr_jax.files import replacing, write_json

MEASURED = Path(__file__).with_name("measured.json")
_SHOWN = ("J", "F", "SR", "J_amodal", "HOTA", "IDF1")
_INTRODUCTION = (
    "# The papers' tables",
    "<!-- Written by `python launch/reports/tables.py page --output docs/reproduce.md`. -->",
    "For every table of both papers: the published figures, the commands that fill the row, what "
    "they need beyond the data of the columns, and what was measured with this project so far, "
    "with the set, the protocol and the weights. Figures on other sets than the columns', or with "
    "other weights than the papers', are not comparable with the published ones.",
    "The commands name the dataset of one column; [evaluate.md](evaluate.md) lists the others. "
    "`DATA` is its folder, `OCLR` and `RAFT` are weights of the flow model and of RAFT, `REFINE` "
    "is a folder with selector and corrector ([refinement.md](refinement.md)), `VIDEOS` are "
    "the videos of the dataset, and `WEIGHTS` is what the training above exported. "
    "YouTube-VOS and the second paper's FBMS-59 take `--gap 3`. Released weights, converted with "
    "`oclr convert`, can stand for full trainings. Neither was at hand for what was measured here, "
    "which uses the weights of the package ([the first ones](weights.md#the-shipped-weights), on "
    "DIS flow, where a row says so), and those of two baselines that were trained for a quarter of "
    "an hour ([baselines.md](baselines.md)). `DAVIS2016 dev-4` are the four "
    "development sequences; `oclr_syn (syn_small)` was rendered with photographs, outlines of real "
    "things and "
    "`--procedural 0.4`, seed 77, with 24 validation sequences.",
)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    page = commands.add_parser("page", help="print the page, or write it")
    page.add_argument("--output", type=Path, help="markdown file")
    page.set_defaults(run=lambda options: _write_page(options.output))
    add = commands.add_parser("add", help="take over the figures of evaluations")
    add.add_argument("runs", nargs="+", type=Path, help="folders of `oclr evaluate --output`")
    add.set_defaults(run=lambda options: add_runs(options.runs, MEASURED))
    ablations = commands.add_parser("ablations", help="finished trainings beside tables E6 to E8")
    ablations.add_argument(
        "workdirs", nargs="+", type=Path, help="of the variants ours_a to ours_i"
    )
    ablations.add_argument("--output", type=Path, help="folder for results.md and results.csv")
    ablations.set_defaults(run=lambda options: write_ablations(options.workdirs, options.output))
    options = parser.parse_args(arguments)
    return run_command("tables", lambda: options.run(options))


def _write_page(output: Path | None) -> None:
    page = make_page(json.loads(MEASURED.read_text(encoding="utf-8")))
    if output is None:
        print(page, end="")
        return
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def make_page(measured: list[dict[str, Any]]) -> str:
    """The page, as markdown.

    Args:
      measured: entries as `add_runs` stores them.
    """
    parts = [f"{paragraph}\n" for paragraph in _INTRODUCTION]
    for paper, tables in (("First paper", FIRST_PAPER), ("Second paper", SECOND_PAPER)):
        parts += [f"## {paper}\n", *(_table(table, measured) for table in tables)]
    return "\n".join(parts)


def _table(table: PaperTable, measured: list[dict[str, Any]]) -> str:
    head = ["row", *(f"published: {name}" for name in table.columns), "needs", "measured here"]
    lines = [f"### {table.title}", "", markdown_line(head), markdown_line(["---"] * len(head))]
    lines += [_row(row, measured) for row in table.rows]
    commands: dict[tuple[str, ...], list[str]] = {}
    for row in table.rows:
        if row.commands:
            of_set = tuple(command.replace("DATASET", table.dataset) for command in row.commands)
            commands.setdefault(of_set, []).append(row.name)
    if commands:
        blocks = ["\n".join([f"# {'; '.join(names)}", *of]) for of, names in commands.items()]
        lines += ["", "```bash", "\n\n".join(blocks), "```"]
    return "\n".join([*lines, ""])


def _row(row: Row, measured: list[dict[str, Any]]) -> str:
    found = [entry for entry in measured if row.setting and fits(entry, row.setting)]
    here = "<br>".join(map(_figures, found))
    if not row.commands and not row.needs:
        here = "another program"
    return markdown_line([row.name, *row.published, row.needs, here or "nothing"])


def _figures(entry: dict[str, Any]) -> str:
    shown = [name for name in _SHOWN if name in entry["mean"]]
    # Success rates are fractions in the papers, all others percentages.
    values = [(name, entry["mean"][name] * (1 if name == "SR" else 100)) for name in shown]
    numbers = ", ".join(f"{n} {v:.3f}" if n == "SR" else f"{n} {v:.1f}" for n, v in values)
    passes = f", {entry['passes']} passes" if entry["passes"] > 1 else ""
    place = f"{entry['title']} ({entry['sequences']} sequences), `{entry['protocol']}`"
    return f"{place}, {entry['weights']}{passes}: {numbers}"


def fits(entry: dict[str, Any], setting: Setting) -> bool:
    """Whether a measured entry belongs to the rows of a setting."""
    names = tuple(refiner["name"] for refiner in entry["refiners"])
    same = entry["model"] == setting.model and names == setting.refiners
    weights = json.dumps([entry["weights"], entry["refiners"]])
    return same and re.search(setting.weights, weights) is not None


def add_runs(runs: list[Path], measured: Path) -> None:
    """Adds the means of evaluations to `measured`; figures of the same settings are replaced.

    Raises:
      UserError: a folder has no finished evaluation of a model.
    """
    known = json.loads(measured.read_text(encoding="utf-8"))
    for run in runs:
        path = run / "metrics.json"
        if not path.is_file():
            raise UserError(f"{run} has no metrics.json; give the --output of `oclr evaluate`.")
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["model"] is None:
            raise UserError(f"{run} has the figures of masks in a folder, not of a model.")
        for entry in _entries(report):
            known = [other for other in known if _key(other) != _key(entry)] + [entry]
    write_json(measured, sorted(known, key=_key))


def _entries(report: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry for each protocol. Refiners do not change what is not scored on tracks."""
    shared = {name: report[name] for name in ("title", "model", "weights", "passes")}
    return [
        {
            **shared,
            "protocol": protocol,
            "refiners": [
                {key: refiner[key] for key in ("name", "weights") if key in refiner}
                for refiner in report["refiners"]
                if report["scored_on"][protocol] == "tracks"
            ],
            "sequences": len(report["sequences"]),
            "mean": {name: round(value, 4) for name, value in mean.items() if name in _SHOWN},
        }
        for protocol, mean in report["mean"].items()
    ]


def _key(entry: dict[str, Any]) -> list[str]:
    names = [name for name in entry if name not in ("mean", "sequences")]
    return [json.dumps(entry[name]) for name in sorted(names)]


if __name__ == "__main__":
    sys.exit(main())

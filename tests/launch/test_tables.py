"""The page of the papers' tables: whole, up to date, and its commands exist."""

import json
import re
import shlex
from pathlib import Path

import pytest

from launch.reports import tables
from launch.reports.paper_rows import Setting
from launch.reports.paper_tables import FIRST_PAPER, SECOND_PAPER
from oclr_jax.cli import build_parser
from oclr_jax.refine.refiner import COMBINED, REFINERS, TRAINED

ROOT = Path(__file__).resolve().parents[2]
ROWS = [row for table in (*FIRST_PAPER, *SECOND_PAPER) for row in table.rows]


def report(**changes):
    values = {
        "title": "DAVIS2016 dev-4",
        "model": "oclr",
        "weights": "oclr-small",
        "passes": 1,
        "refiners": [{"name": "tta", "weights": "dino", "steps": 3}],
        "scored_on": {"paper": "windows", "sequence-oracle": "tracks"},
        "sequences": {"a": {}, "b": {}},
        "mean": {"paper": {"J": 0.5}, "sequence-oracle": {"J": 0.6, "J_recall": 1.0}},
    }
    return values | changes


def write(folder: Path, content: dict) -> Path:
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def test_the_page_in_the_documentation_is_up_to_date():
    page = tables.make_page(json.loads(tables.MEASURED.read_text()))
    assert (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8") == page


def test_every_table_is_there_and_every_row_has_its_figures():
    titles = [table.title for table in (*FIRST_PAPER, *SECOND_PAPER)]
    for name in ["2", "3", "E6", "E7", "E8", "E9", *map(str, range(3, 21))]:
        assert any(title.startswith(f"Table {name}:") for title in titles), name
    for table in (*FIRST_PAPER, *SECOND_PAPER):
        for row in table.rows:
            assert len(row.published) == len(table.columns), row


def test_the_commands_exist():
    parser, flags = build_parser(), {"--config", "--workdir"}
    for command in {command for row in ROWS for command in row.commands}:
        program, *arguments = shlex.split(command)
        if program == "oclr":
            arguments = ["davis2016" if a == "DATASET" else a for a in arguments]
            options = parser.parse_args(arguments)
            for name in filter(None, (getattr(options, "refine", None) or "").split(",")):
                assert name in {"none", *REFINERS, *TRAINED, *COMBINED}, command
        else:
            script = ROOT / arguments[0]
            assert program == "python" and script.is_file(), command
            if script.name == "train.py":
                config = re.search(r"--config (configs/\w+\.py)", command).group(1)
                assert (ROOT / config).is_file()
                options = {word for word in arguments if re.fullmatch(r"--\w+", word)}
                assert options <= flags, command


def test_measured_figures_get_into_their_rows(tmp_path, monkeypatch):
    measured = tmp_path / "measured.json"
    measured.write_text("[]")
    run = write(tmp_path / "run", report())
    tables.add_runs([run, run], measured)
    entries = json.loads(measured.read_text())
    assert [entry["protocol"] for entry in entries] == ["paper", "sequence-oracle"]
    assert entries[0]["refiners"] == [], "windows are scored before the refiners"
    assert entries[1]["mean"] == {"J": 0.6}
    page = tables.make_page(entries)
    (row,) = (line for line in page.splitlines() if line.startswith("| Ours-M"))
    assert "DAVIS2016 dev-4 (2 sequences), `sequence-oracle`, oclr-small: J 60.0" in row
    (row,) = (line for line in page.splitlines() if line.startswith("| Ours-J"))
    assert "`paper`, oclr-small: J 50.0" in row and "sequence-oracle" not in row


def test_rows_tell_weights_apart():
    entry = {"model": "oclr", "weights": "oclr-small"}
    entry["refiners"] = [{"name": "select", "weights": "a"}, {"name": "correct", "weights": "b-1"}]
    names = ("select", "correct")
    assert tables.fits(entry, Setting("oclr", names, "b-1"))
    assert not tables.fits(entry, Setting("oclr", names, "b-2"))
    assert not tables.fits(entry, Setting("oclr", names[:1]))
    assert not tables.fits(entry, Setting("mask-rcnn", names))


def test_rows_of_one_model_have_weights_of_their_own():
    settings = {row.name: row.setting for row in ROWS}
    for weights, names in {
        "motion-grouping-small": ("MG, flow", "MG"),
        "motion-grouping-supervised": ("MG-sup., flow", "MG-sup."),
        "mask-rcnn-small": ("Mask R-CNN, flow",),
        "mask-rcnn-rgb": ("Mask R-CNN, RGB, flow",),
    }.items():
        model = settings[names[0]].model
        entry = {"model": model, "weights": weights, "refiners": []}
        fitting = {
            name for name, setting in settings.items() if setting and tables.fits(entry, setting)
        }
        assert set(names) <= fitting
        others = {"MG, flow", "MG-sup., flow", "Mask R-CNN, flow", "Mask R-CNN, RGB, flow"}
        assert fitting & others == {names[0]}


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no metrics.json"), (report(model=None), "masks in a folder")],
)
def test_runs_without_figures_of_a_model_are_refused(tmp_path, capsys, monkeypatch, content, says):
    monkeypatch.setattr(tables, "MEASURED", tmp_path / "measured.json")
    tables.MEASURED.write_text("[]")
    run = tmp_path / "run"
    if content:
        write(run, content)
    assert tables.main(["add", str(run)]) == 2
    assert says in capsys.readouterr().err
    assert tables.MEASURED.read_text() == "[]"

"""Content of the HTML pages, and escaping of their text."""

import base64
from html.parser import HTMLParser

import numpy as np

from oclr_jax.datasets.benchmarks import BENCHMARKS, VOID
from oclr_jax.datasets.layouts import find_benchmark_sequences
from oclr_jax.evaluate import evaluate_dataset
from oclr_jax.show.evaluation_page import sequence_strip, write_evaluation_page
from oclr_jax.show.html import table
from oclr_jax.show.training_page import TrainingSummary, write_training_page
from oclr_jax.video.png import write_ids
from tests.datasets.miniatures import MINIATURES, mask


class Cells(HTMLParser):
    """The cells of all tables, row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def page_of(tmp_path, name):
    MINIATURES[name](tmp_path / "data")
    (sequence,) = find_benchmark_sequences(BENCHMARKS[name], tmp_path / "data")
    for number in range(8):
        path = tmp_path / "<b>masks" / sequence.name / f"{sequence.stems[number]}.png"
        write_ids(path, mask(number))
    report = evaluate_dataset(
        name, tmp_path / "data", results=tmp_path / "<b>masks", output=tmp_path / "out"
    )
    return report, (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_our_row_is_in_the_published_table(tmp_path):
    _, page = page_of(tmp_path, "davis2016")
    cells = Cells()
    cells.feed(page)
    paper = next(row for row in cells.rows if "OCLR (flow-only)" in row)
    ours = next(row for row in cells.rows if "masks of a folder" in row)
    assert paper == [
        "first", "OCLR (flow-only)", "no", "flow", "128x224", "1", "as published", "72.1"
    ]  # fmt: skip
    assert ours[-2:] == ["paper", "100.0"] and len(ours) == len(paper)
    assert "DAVIS2016, 1 of 20 sequences" in page and "numpy" in page
    assert "<b>masks" not in page and "&lt;b&gt;masks" in page


def test_a_baseline_is_in_both_tables(tmp_path):
    report, _ = page_of(tmp_path, "davis2016")
    benchmark = BENCHMARKS["davis2016"]
    baseline = evaluate_dataset("davis2016", tmp_path / "data", model="geometric")
    write_evaluation_page(tmp_path / "page.html", report, benchmark, tmp_path, baseline)
    cells = Cells()
    cells.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
    j = baseline["mean"]["no-oracle"]["J"]
    means = next(row for row in cells.rows if row[:3] == ["no-oracle", "tracks", "geometric"])
    assert f"{j:.3f}" in means
    (row,) = (r for r in cells.rows if "this run: geometric" in r and "no-oracle" in r)
    assert row[-1] == f"{100 * j:.1f}" and j > 0


def test_detection_reports_the_success_rate(tmp_path):
    report, page = page_of(tmp_path, "moca_filter")
    cells = Cells()
    cells.feed(page)
    assert next(row for row in cells.rows if "OCLR (flow-only)" in row)[-1] == "0.599"
    ours = next(row for row in cells.rows if "masks of a folder" in row)
    assert ours[-1] == f"{report['mean']['paper']['SR']:.3f}"


def test_strip_shows_ground_truth_above_prediction(tmp_path):
    MINIATURES["davis2016"](tmp_path)
    (sequence,) = find_benchmark_sequences(BENCHMARKS["davis2016"], tmp_path)
    frames = list(range(8))
    truth, found = np.zeros((2, 8, 48, 64), np.uint8)
    found[:] = 1
    truth[:] = VOID
    strip = sequence_strip(sequence, frames, truth, found)
    assert strip.shape == (2 * 180, 5 * 240, 3)
    plain = sequence_strip(sequence, frames, np.zeros_like(truth), np.zeros_like(truth))
    assert np.array_equal(strip[:180], plain[:180])  # void is not painted
    assert not np.array_equal(strip[180:], plain[180:])


def training(**changes):
    values = {
        "name": "<b>oclr",
        "steps": (40, 60),
        "command": "python launch/train.py",
        "scores": [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.25, "modal_j": 0.125}],
        "phases": {"step": 6.0, "data wait": 0.0, "compile": 2.0},
        "environment": {"devices": "1 x <cpu>"},
        "config": {"loss.order": 0.05, "model.channels": (4, 8)},
        "curves": b"curves",
        "strips": {"clip 1 of tiny": {"step 20": b"early", "step 40": b"late"}},
    }
    return TrainingSummary(**{**values, **changes})


def test_training_page(tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_training_page(path, training())
    page = path.read_text(encoding="utf-8")
    cells = Cells()
    cells.feed(page)
    assert ["40", "0.2500", "0.1250"] in cells.rows and ["20", "0.5000", ""] in cells.rows
    assert ["step", "6.0", "75.0%"] in cells.rows and ["all", "8.0", "100.0%"] in cells.rows
    assert ["loss.order", "0.05"] in cells.rows and ["devices", "1 x <cpu>"] in cells.rows
    for png in (b"curves", b"early", b"late"):
        assert f"data:image/png;base64,{base64.b64encode(png).decode()}" in page
    assert page.index("step 20</figcaption>") < page.index("step 40</figcaption>")
    assert "Step 40 of 60." in page and "<b>oclr" not in page
    assert list(path.parent.iterdir()) == [path]  # nothing half-written stays


def test_page_of_a_run_without_evaluations(tmp_path):
    path = tmp_path / "report.html"
    phases = {"step": 0.0, "compile": 0.0}
    write_training_page(path, training(scores=[], strips={}, phases=phases, steps=(60, 60)))
    page = path.read_text(encoding="utf-8")
    assert "Not evaluated yet" in page and "None drawn yet" in page and ": finished" in page


def test_the_newest_evaluations_are_shown(tmp_path):
    scores = [{"step": step, "loss": 0.5} for step in range(1, 26)]
    write_training_page(tmp_path / "report.html", training(scores=scores))
    cells = Cells()
    cells.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    steps = [int(row[0]) for row in cells.rows if row[1:] == ["0.5000"]]
    assert steps == list(range(6, 26))


def test_table_marks_numbers_and_highlighted_rows():
    html = table(["name", "J"], [["a", 1], ["b", 2]], numbers_from=1, highlighted=[1])
    assert html.count("<tr class=highlight>") == 1
    assert html.index("<tr class=highlight>") > html.index(">a<")
    assert "<td class=number>2</td>" in html and "<td>b</td>" in html

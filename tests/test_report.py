"""The page of an evaluation: what is on it, and that nothing on it is taken for markup."""

from html.parser import HTMLParser

import numpy as np

from oclr_jax.benchmarks.facts import BENCHMARKS, VOID
from oclr_jax.benchmarks.files import find_benchmark_sequences
from oclr_jax.evaluate import evaluate_dataset
from oclr_jax.report import sequence_strip
from oclr_jax.video.png import write_ids
from tests.benchmarks.miniatures import MINIATURES, mask


class Cells(HTMLParser):
    """The rows of all tables as lists of text."""

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


def test_our_row_stands_among_the_papers(tmp_path):
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


def test_detection_has_the_papers_success_rate(tmp_path):
    report, page = page_of(tmp_path, "moca_filter")
    cells = Cells()
    cells.feed(page)
    assert next(row for row in cells.rows if "OCLR (flow-only)" in row)[-1] == "0.599"
    ours = next(row for row in cells.rows if "masks of a folder" in row)
    assert ours[-1] == f"{report['mean']['paper']['SR']:.3f}"


def test_strip_shows_truth_above_and_what_was_found_below(tmp_path):
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

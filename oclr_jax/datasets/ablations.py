"""Ablation studies of the first paper: Xie et al., NeurIPS 2022, supplement, tables E6 to E8.

Figures are J in percent. Some rows of table E7 are also in table 1 of the main paper, under other
letters.
"""

from typing import NamedTuple

E6, E7, E8 = "E6", "E7", "E8"
TITLES = {
    E6: "Table E6: training data, one object",
    E7: "Table E7: training settings",
    E8: "Table E8: repeated trainings of Ours-G",
}
COLUMNS = {
    E6: ("DAVIS2016", "SegTrackv2", "Syn-Single"),
    E7: ("DAVIS2016", "DAVIS2017-motion", "Syn-Val modal", "Syn-Val amodal"),
    E8: ("DAVIS2016", "DAVIS2017-motion", "Syn-Val modal", "Syn-Val amodal"),
}


class Experiment(NamedTuple):
    """A row of table E6 or E7."""

    table: str
    name: str  # variant in configs/oclr_flow.py
    table_1: str  # letter in table 1 of the main paper; empty if absent
    setting: str  # difference from the default
    figures: tuple[float, ...]  # in the order of COLUMNS


EXPERIMENTS = (
    Experiment(E6, "ours_a", "", "exact flow; homographies", (67.4, 52.3, 78.0)),
    Experiment(E6, "ours_b", "", "estimated flow; homographies", (68.6, 58.5, 84.7)),
    Experiment(E6, "ours_c", "", "estimated flow; homographies and video", (72.0, 62.3, 91.4)),
    Experiment(E7, "ours_d", "A", "without instance norm", (67.6, 48.7, 83.5, 83.0)),
    Experiment(E7, "ours_e", "", "without Hungarian matching", (67.4, 44.2, 70.6, 71.0)),
    Experiment(E7, "ours_f", "B", "modal supervision", (69.2, 50.5, 81.1, 76.9)),
    Experiment(E7, "ours_g", "C", "default", (72.1, 54.5, 85.6, 84.7)),
    Experiment(E7, "ours_h", "D", "T = 15", (71.3, 53.5, 82.8, 83.0)),
    Experiment(E7, "ours_i", "E", "lambda_bound 0", (71.5, 54.1, 80.9, 81.6)),
)
# Table E8: four trainings of Ours-G; the first is that of table E7.
REPEATED = "ours_g"
REPEATS = (
    (72.1, 54.5, 85.6, 84.7),
    (72.0, 54.1, 85.2, 84.3),
    (72.8, 54.3, 84.9, 84.5),
    (72.1, 54.0, 85.9, 85.2),
)
REPEATS_MEAN = (72.3, 54.2, 85.4, 84.7)
# Population standard deviation (divided by n).
REPEATS_STD = (0.3, 0.2, 0.4, 0.3)

"""Published figures of both papers, and the inputs and settings of each method.

J, F and J&F in percent, SR as a fraction. `first`: Xie et al., NeurIPS 2022, tables 2 and 3;
`second`: Xie et al., ECCV 2024, tables 17 to 20.
"""

from typing import NamedTuple


class PublishedResult(NamedTuple):
    """One row of a table in a paper."""

    paper: str  # "first" or "second"
    method: str
    labels: str  # human annotation used in training: "yes" or "no"
    inputs: str  # RGB, flow or both
    resolution: str  # input resolution
    gap: int | None  # flow gap of the papers' own methods
    figures: dict[str, float]  # by metric


def _single(key: int, measure: str, first, second) -> list[PublishedResult]:
    """Rows of the single-object tables. `key` is the column."""
    rows = []
    for paper, table in (("first", first), ("second", second)):
        for method, labels, inputs, resolution, values in table:
            if values[key] is not None:
                own = method.startswith(("OCLR", "Ours"))
                gap = (3 if paper == "second" and key == 2 else 1) if own else None
                name = "SR" if measure == "SR" else "J"
                rows.append(
                    PublishedResult(
                        paper, method, labels, inputs, resolution, gap, {name: values[key]}
                    )
                )
    return rows


# Columns: DAVIS2016 J, SegTrackv2 J, FBMS-59 J, MoCA SR.
_FIRST_SINGLE = (
    ("NLC", "no", "RGB, flow", "", (55.1, 67.2, 51.5, None)),
    ("CIS (with post-processing)", "no", "RGB, flow", "192x384", (71.5, 62.0, 63.5, 0.363)),
    ("Motion Grouping", "no", "flow", "128x224", (68.3, 58.6, 53.1, 0.484)),
    ("SIMO", "no", "flow", "128x128", (67.8, 62.0, None, 0.566)),
    ("OCLR (flow-only)", "no", "flow", "128x224", (72.1, 67.6, 65.4, 0.599)),
    ("OCLR (test. adap.)", "no", "RGB, flow", "480x854", (80.9, 72.3, 69.8, 0.559)),
    ("FSEG", "yes", "RGB, flow", "", (70.7, 61.4, 68.4, None)),
    ("COSNet", "yes", "RGB", "473x473", (80.5, 49.7, 75.6, 0.417)),
    ("MATNet", "yes", "RGB, flow", "473x473", (82.4, 50.4, 76.1, 0.544)),
    ("D2Conv3D", "yes", "RGB", "", (85.5, None, None, None)),
)
_SECOND_SINGLE = (
    ("EM", "no", "flow", "128x224", (69.3, 55.5, 57.8, None)),
    ("SMTC", "no", "RGB", "256x256", (71.8, 69.3, 68.4, None)),
    ("OCLR-flow", "no", "flow", "128x224", (72.1, 67.6, 70.0, None)),
    ("Meunier et al.", "no", "flow", "128x224", (73.2, 55.0, 59.4, None)),
    ("DS", "no", "RGB, flow", "240x426", (79.1, 72.1, 71.8, None)),
    ("MOD", "no", "RGB, flow", "480x854", (79.2, 69.4, 66.9, None)),
    ("DystaB", "no", "RGB, flow", "192x384", (80.0, 74.2, 73.2, None)),
    ("SSL-VOS", "no", "RGB, flow", "768x768", (80.2, 74.9, 70.0, None)),
    ("GWM", "no", "RGB", "128x224", (80.7, 78.9, 78.4, None)),
    ("OCLR-TTA", "no", "RGB, flow", "480x854", (80.9, 72.3, 72.7, None)),
    ("LOCATE", "no", "RGB", "480x848", (80.9, 79.9, 68.8, None)),
    ("Ours (second paper)", "no", "RGB, flow", "128x224", (81.1, 76.6, 81.9, None)),
    ("OCLR-flow + SAM", "yes", "RGB, flow", "576x1024", (80.6, 71.5, 79.2, None)),
    ("Ours (second paper) + SAM", "yes", "RGB, flow", "576x1024", (86.6, 81.3, 85.7, None)),
    ("DPA", "yes", "RGB, flow", "512x512", (87.1, None, 81.0, None)),
)


def _multi(columns: slice, gap: int) -> list[PublishedResult]:
    """Rows of the multi-object table; unsupervised methods only."""
    return [
        PublishedResult(
            "second", method, labels, inputs, resolution, gap if own else None, dict(figures)
        )
        for method, labels, inputs, resolution, own, values in _SECOND_MULTI
        if (figures := list(zip(("J&F", "J", "F"), values[columns], strict=False)))
    ]


# Columns: YTVOS18-motion J&F, J, F; DAVIS2017-motion J&F, J, F.
_SECOND_MULTI = (
    ("MG", "no", "flow", "128x224", True, (33.3, 37.0, 29.6, 35.8, 38.4, 33.2)),
    ("MG-sup.", "no", "flow", "128x224", True, (33.0, 39.1, 26.9, 39.5, 44.9, 34.2)),
    ("Mask R-CNN", "no", "flow", "128x224", True, (41.1, 42.9, 39.2, 52.2, 52.0, 52.3)),
    ("Mask R-CNN", "no", "RGB, flow", "128x224", True, (38.8, 39.3, 38.2, 50.4, 49.8, 50.9)),
    ("OCLR-flow", "no", "flow", "128x224", True, (45.3, 46.5, 44.1, 55.1, 54.5, 55.7)),
    ("OCLR-TTA", "no", "RGB, flow", "480x854", True, (50.6, 52.7, 48.6, 64.4, 65.2, 63.6)),
    ("VideoCutLER", "no", "RGB", "480x854", False, (57.0, 59.0, 55.1, 57.3, 57.4, 57.2)),
    (
        "Ours (second paper)",
        "no",
        "RGB, flow",
        "128x224",
        True,
        (65.2, 67.1, 63.2, 66.2, 67.0, 65.4),
    ),
    (
        "OCLR-flow + SAM",
        "yes",
        "RGB, flow",
        "576x1024",
        True,
        (58.5, 57.0, 60.0, 64.2, 62.0, 66.4),
    ),
    (
        "Ours (second paper) + SAM",
        "yes",
        "RGB, flow",
        "576x1024",
        True,
        (70.6, 71.1, 70.2, 71.5, 70.9, 72.1),
    ),
)
_SAFADOUST = PublishedResult(
    "second",
    "Safadoust et al.",
    "no",
    "RGB",
    "128x224",
    None,
    {"J&F": 59.2, "J": 59.3, "F": 59.2},
)

# Tables 17 and 18, columns: YTVOS18-motion J, DAVIS2017-motion J. Without CRF where it says so.
_SECOND_SAM = (
    ("OCLR-TTA + SAM", (62.3, 69.4)),
    ("Ours (second paper) + SAM, without CRF", (70.6, 70.4)),
    ("Ours (second paper) + HQ-SAM, without CRF", (70.9, 71.2)),
    ("Ours (second paper) + HQ-SAM", (71.1, 71.3)),
)


def _with_sam(column: int, gap: int) -> list[PublishedResult]:
    """Rows of refinement by SAM that the multi-object table does not have."""
    inputs = ("yes", "RGB, flow", "576x1024", gap)
    return [
        PublishedResult("second", method, *inputs, {"J": values[column]})
        for method, values in _SECOND_SAM
    ]


PUBLISHED: dict[str, list[PublishedResult]] = {
    "davis2016": _single(0, "J", _FIRST_SINGLE, _SECOND_SINGLE),
    "segtrack_v2": _single(1, "J", _FIRST_SINGLE, _SECOND_SINGLE),
    "fbms59": _single(2, "J", _FIRST_SINGLE, _SECOND_SINGLE),
    "moca_filter": _single(3, "SR", _FIRST_SINGLE, _SECOND_SINGLE),
    "davis2017_motion": [*_multi(slice(3, 6), 1), _SAFADOUST, *_with_sam(1, 1)],
    "ytvos2018_motion": [*_multi(slice(0, 3), 3), *_with_sam(0, 3)],
}

"""The metrics as lines of text and as CSV, with the protocol beside every number."""

import csv
from pathlib import Path
from typing import Any

from oclr_jax.files import replacing

# Metrics in the printed table, if they were measured.
_SHOWN = ("J&F", "J", "F", "SR", "J_amodal", "order", "HOTA", "IDF1")


def format_table(report: dict[str, Any]) -> str:
    """The report as lines of text.

    Beside every number stands its protocol, and whether that scores windows, as the flow model
    predicts them, or tracks over the whole sequence, which refiners change.
    """
    width = max(len(name) for name in [*report["sequences"], "mean"])
    lines = [f"{report['title']}, {describe(report)}"]
    lines += [f"  {name}: {what}" for name, what in report["protocols"].items()]
    for name, record in report["sequences"].items():
        numbers = "   ".join(_row(report, protocol, entry) for protocol, entry in record.items())
        counted = " / ".join(sorted({entry["frames"] for entry in record.values()}))
        lines.append(f"{name:<{width}}   {numbers}   ({counted} frames)")
    numbers = "   ".join(_row(report, name, entry) for name, entry in report["mean"].items())
    return "\n".join([*lines, f"{'mean':<{width}}   {numbers}"])


def describe(report: dict[str, Any]) -> str:
    """What was scored: masks of a folder, or weights, precision, flow, gap and refiners."""
    if report["results"]:
        return f"masks in {report['results']}"
    flow = report["flow"]
    name = flow.get("estimator", flow.get("folder"))
    refiners = "".join(f", refiner {refiner['name']}" for refiner in report["refiners"])
    if report["human_annotation"] == "used":
        refiners += ", human annotation used"
    if report["model"] != "oclr":
        named = f"model {report['model']}"
        if report["weights"] != report["model"]:
            named += f", weights {report['weights']} in {report['precision']}"
        return f"{named}, flow {name} at gap {report['gap']}{refiners}"
    return (
        f"weights {report['weights']} in {report['precision']}, flow {name} at gap "
        f"{report['gap']}{refiners}"
    )


def _row(report: dict[str, Any], protocol: str, entry: dict[str, Any]) -> str:
    shown = [name for name in _SHOWN if isinstance(entry.get(name), float)]
    numbers = [f"{name} {entry[name]:.3f}" for name in shown]
    return " ".join([f"{protocol} ({report['scored_on'][protocol]})", *numbers])


def write_csv(path: Path, report: dict[str, Any]) -> None:
    """Writes one row for each object, sequence and protocol, and one for each mean."""
    figures = list(dict.fromkeys(name for _, _, row in _rows(report) for name in row))
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["dataset", "gap", "protocol", "scored_on", "sequence", "object", *figures])
        for protocol, place, row in _rows(report):
            scored_on = report["scored_on"][protocol]
            head = [report["title"], report["gap"], protocol, scored_on, *place]
            writer.writerow([*head, *(row.get(name, "") for name in figures)])


def _rows(report: dict[str, Any]):
    for sequence, record in report["sequences"].items():
        for protocol, entry in record.items():
            for object, figures in entry["objects"].items():
                yield protocol, (sequence, object), figures
    for protocol, figures in report["mean"].items():
        yield protocol, ("mean", ""), figures

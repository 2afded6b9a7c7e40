"""`oclr inspect`: what is in a folder of results."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oclr_jax.export.result import Result, open_result
from oclr_jax.results import ObjectEntry


def summarize(folder: str | os.PathLike) -> str:
    """Describes a result: the video, the settings, a table of its objects, and the files.

    Of each object: depth (0 in front), first and last frame, frames in which it is visible, mean
    share of the picture there, share of its amodal masks that is hidden, and score.

    Raises:
      UserError: the folder has no whole result.
    """
    result = open_result(folder)
    lines = [_video(result), _settings(result.record["settings"]), ""]
    if result.record["objects"]:
        lines += _table(result)
    else:
        lines.append("no objects" if result.record["video"]["moves"] else "nothing moves")
    return "\n".join([*lines, "", *_files(Path(folder))])


def _video(result: Result) -> str:
    video = result.record["video"]
    parts = [
        f"{result.width}x{result.height}",
        f"{len(result.stems)} frames, {float(result.fps):g} per second",
    ]
    if result.pixel_aspect != 1:
        parts.append(f"pixel aspect {result.pixel_aspect}")
    if result.times:
        parts.append("frame times vary")
    if video["repeats"]:
        parts.append(f"{len(video['repeats'])} repeated frames")
    if len(video["shots"]) > 1:
        starts = ", ".join(str(first) for first, _ in video["shots"])
        parts.append(f"{len(video['shots'])} shots (from frames {starts})")
    return f"{result.name}: {', '.join(parts)}"


def _settings(settings: Mapping[str, Any]) -> str:
    flow = settings.get("flow")
    refiners = [refiner["name"] for refiner in settings.get("refiners") or []]
    known = {
        "model": settings.get("model"),
        "weights": settings.get("weights"),
        "flow": flow.get("estimator") if isinstance(flow, dict) else flow,
        "refiners": ", ".join(refiners) or None,
        "propagated from": settings.get("propagated_from"),
        "precision": settings.get("precision"),
        "oclr_jax": settings.get("version"),
    }
    return "; ".join(f"{name}: {value}" for name, value in known.items() if value is not None)


def _table(result: Result) -> list[str]:
    rows = [("object", "depth", "first", "last", "visible in", "area", "hidden", "score")]
    for entry in result.record["objects"]:
        visible = [found["area"] for found in entry["frames"] if found["area"]]
        area = sum(visible) / max(len(visible), 1) / (result.height * result.width)
        rows.append(
            (
                str(entry["id"]),
                str(entry["depth_rank"]),
                str(entry["first_frame"]),
                str(entry["last_frame"]),
                f"{len(visible)} frames",
                f"{area:.1%}",
                _hidden(result, entry),
                f"{entry['score']:.2f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _hidden(result: Result, entry: ObjectEntry) -> str:
    whole = hidden = 0
    for found in entry["frames"]:
        amodal = result.decode(found["amodal"])
        whole += int(amodal.sum())
        hidden += int((amodal & ~result.decode(found["modal"])).sum())
    return f"{hidden / whole:.1%}" if whole else "-"


def _files(folder: Path) -> list[str]:
    lines = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        inside = [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
        size = sum(each.stat().st_size for each in inside) / 1e6
        many = f", {len(inside)} files" if path.is_dir() else ""
        lines.append(f"{path.name}{'/' if path.is_dir() else ''}: {size:.2f} MB{many}")
    return lines

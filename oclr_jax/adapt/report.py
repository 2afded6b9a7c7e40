"""The HTML page of an adaptation: verdict, curves, and pictures before and after."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oclr_jax.adapt.footage import Footage
from oclr_jax.adapt.labels import Labels
from oclr_jax.show.grid import evenly_spaced, picture_grid
from oclr_jax.show.html import escape, format_number, note, picture, table, write_page
from oclr_jax.show.overlay import paint_ids
from oclr_jax.train.record.curves import draw_curves
from oclr_jax.video.resize import resize_ids, resize_image

_SHOWN = 12  # videos with pictures
_FRAMES = 5  # pictures of a video in a row
_WIDTH = 240  # pixels of a picture
_CURVES = {
    "agreement on left-out frames": ("check/agreement",),
    "loss": ("check/loss",),
}


def write_report(
    path: Path,
    record: dict[str, Any],
    footage: Sequence[Footage],
    before: Sequence[Labels],
    after: Sequence[Labels],
) -> None:
    """Writes the page.

    Args:
      record: the content of adapt.json.
      footage: the videos.
      before, after: the masks of the pipeline in each, without and with adaptation.
    """
    names = ", ".join(one.clip.name for one in footage)
    title = f"Adaptation of {record['weights']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in verdicts(record)),
        note(f"Adapted on {names}; no annotation was read."),
        *_checks(record["results"].get("flow", [])),
        "<h2>Before and after</h2>",
        note("Masks of the pipeline on the model grid: above with the weights from the start."),
    ]
    for one, first, last in list(zip(footage, before, after, strict=True))[:_SHOWN]:
        strip = _png(before_and_after(one, first.ids, last.ids))
        parts.append(f"<h3>{escape(one.clip.name)}</h3>{picture(one.clip.name, strip)}")
    parts.append("<h2>Settings and time</h2>")
    parts.append(f"<pre>{escape(json.dumps(record, indent=1))}</pre>")
    write_page(path, title, parts)


def verdicts(record: dict[str, Any]) -> list[str]:
    """For each stage and round, whether the adapted weights are kept, and why."""
    names = {"corrector": "corrector", "flow": "flow model"}
    sentences = []
    for stage, rounds in record["results"].items():
        for number, result in enumerate(rounds, 1):
            kept = "kept" if result["kept"] else "not kept; those from before go on"
            where = f" (round {number})" if len(rounds) > 1 else ""
            sentences.append(
                f"The adapted weights of the {names[stage]}{where} are {kept}: {result['reason']}."
            )
    return sentences


def before_and_after(
    footage: Footage, before: UInt8[np.ndarray, "t h w"], after: UInt8[np.ndarray, "t h w"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Some frames of a video with masks painted on them: before above, after below."""
    clip = footage.clip
    wanted = set(evenly_spaced(clip.count, _FRAMES))
    size = round(_WIDTH * clip.height / clip.width), _WIDTH
    rows = [], []
    for frame, image in enumerate(clip.frames()):
        if frame in wanted:
            image = resize_image(image, *size)
            for row, ids in zip(rows, (before, after), strict=True):
                row.append(paint_ids(image, resize_ids(ids[frame], *size)))
    return picture_grid(rows, gap=2, row_titles=("before", "after"))


def _checks(rounds: list[dict[str, Any]]) -> list[str]:
    """The training of the flow model."""
    if not rounds:
        return []
    rows = [{"round": number, **row} for number, one in enumerate(rounds, 1) for row in one["rows"]]
    cells = [
        [r["round"], r["step"], format_number(r["agreement"]), format_number(r.get("loss"), 4)]
        for r in rows
    ]
    return [
        "<h2>Checks of the flow model on left-out frames</h2>",
        table(["round", "step", "agreement", "loss"], cells, numbers_from=0),
        picture("curves over the steps", _curves(rows)),
    ]


def _curves(rows: list[dict[str, Any]]) -> bytes:
    """The steps of later rounds follow those of earlier ones."""
    longest = max(row["step"] for row in rows)
    along = [
        {**row, "kind": "check", "step": row["step"] + (row["round"] - 1) * longest} for row in rows
    ]
    return draw_curves(along, _CURVES)


def _png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()

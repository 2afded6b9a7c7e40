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
        f"<p>{escape(verdict_sentence(record))}</p>",
        note(f"Adapted on {names}; no annotation was read."),
        "<h2>Checks on left-out frames</h2>",
        _rows(record["rows"]),
        picture("curves over the steps", _curves(record["rows"])),
        "<h2>Before and after</h2>",
        note("Masks of the pipeline on the model grid: above with the weights from the start."),
    ]
    for one, first, last in list(zip(footage, before, after, strict=True))[:_SHOWN]:
        strip = _png(before_and_after(one, first.ids, last.ids))
        parts.append(f"<h3>{escape(one.clip.name)}</h3>{picture(one.clip.name, strip)}")
    parts.append("<h2>Settings and time</h2>")
    shown = {name: value for name, value in record.items() if name != "rows"}
    parts.append(f"<pre>{escape(json.dumps(shown, indent=1))}</pre>")
    write_page(path, title, parts)


def verdict_sentence(record: dict[str, Any]) -> str:
    """Whether the adapted weights are kept, and why."""
    if record["kept"]:
        return f"The adapted weights are kept: {record['reason']}."
    return (
        f"The adapted weights are not kept: {record['reason']}. The weights in the folder are "
        f"those from the start, {record['weights']}."
    )


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


def _rows(rows: list[dict[str, Any]]) -> str:
    cells = [
        [r["round"], r["step"], format_number(r["agreement"]), format_number(r.get("loss"), 4)]
        for r in rows
    ]
    return table(["round", "step", "agreement", "loss"], cells, numbers_from=0)


def _curves(rows: list[dict[str, Any]]) -> bytes:
    """The steps of later rounds follow those of earlier ones."""
    longest = max(row["step"] for row in rows)
    along = [
        {**row, "kind": "check", "step": row["step"] + max(row["round"] - 1, 0) * longest}
        for row in rows
    ]
    return draw_curves(along, _CURVES)


def _png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()

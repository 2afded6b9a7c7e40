"""Building blocks of the HTML pages: text, tables, pictures. Each page is a self-contained file."""

import base64
import html
import os
from collections.abc import Iterable, Mapping
from typing import Any

from oclr_jax.files import replacing

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
table { border-collapse: collapse; margin: .6rem 0 1.6rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; }
td.number, th.number { text-align: right; }
tr.highlight { background: #fff4cf; font-weight: 600; }
img { max-width: 100%; display: block; margin: .2rem 0 1rem; }
p.note { color: #555; }
pre { white-space: pre-wrap; }
td { overflow-wrap: anywhere; }
td:first-child, td.number { white-space: nowrap; }
div.strips { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 0 1 24rem; }
figure img { width: 100%; image-rendering: pixelated; }
"""


def write_page(path: str | os.PathLike, title: str, parts: Iterable[str]) -> None:
    """Writes a page atomically. `parts` are HTML; `title` is plain text."""
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def escape(value: Any) -> str:
    """A value as text in which nothing is markup."""
    return html.escape(str(value))


def note(text: str) -> str:
    """A paragraph of small print, from plain text."""
    return f'<p class="note">{escape(text)}</p>'


def picture(name: str, png: bytes) -> str:
    """An embedded PNG; `name` is its alternative text."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{data}">'


def figures(pictures: Mapping[str, bytes]) -> str:
    """PNGs side by side, each under its caption."""
    shown = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>{picture(caption, png)}</figure>"
        for caption, png in pictures.items()
    )
    return f'<div class="strips">{shown}</div>'


def table(
    head: list[str],
    rows: Iterable[list[Any]],
    numbers_from: int,
    highlighted: Iterable[int] = (),
) -> str:
    """A table. Columns from `numbers_from` on are right-aligned; `highlighted` are row numbers."""

    def cells(row: list[Any], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if column >= numbers_from else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )

    highlighted = set(highlighted)
    body = "".join(
        f"<tr{' class=highlight' if number in highlighted else ''}>{cells(row, 'td')}</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><tr>{cells(head, 'th')}</tr>{body}</table>"


def name_value_table(values: Mapping[str, Any]) -> str:
    """A table with a row for each name and its value."""
    return table(["", ""], [[name, value] for name, value in values.items()], numbers_from=2)


def format_number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits after the point; empty for None."""
    return "" if value is None else f"{value:.{digits}f}"

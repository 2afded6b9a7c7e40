"""The HTML page of a generated dataset."""

import os

from oclr_jax.show.html import escape, picture, table, write_page


def write_dataset_page(
    path: str | os.PathLike,
    title: str,
    head: list[str],
    rows: list[list[str]],
    histograms: dict[str, bytes],
    clips: dict[str, bytes],
) -> None:
    """Writes the page of a dataset: a table of statistics, histograms, and pictures of some clips.

    Args:
      path: the file to write.
      title: plain text.
      head, rows: the table of statistics. Columns from the third on hold numbers.
      histograms: title of each histogram to its PNG.
      clips: name of each clip to a PNG.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        table(head, rows, numbers_from=2),
        *(picture(name, png) for name, png in histograms.items()),
    ]
    for name, png in clips.items():
        parts += [f"<h2>{escape(name)}</h2>", picture(name, png)]
    write_page(path, title, parts)

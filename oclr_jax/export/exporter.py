"""Exports: which formats there are, and how they are written, whole or not at all."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from oclr_jax.errors import UserError
from oclr_jax.export.alpha import write_alpha
from oclr_jax.export.coco import write_coco
from oclr_jax.export.gif import write_gif
from oclr_jax.export.npz import write_npz
from oclr_jax.export.result import Result, open_result
from oclr_jax.export.youtubevos import write_youtubevos
from oclr_jax.files import staged_output

FOLDER = "exports"  # inside the folder of a result


class Format(NamedTuple):
    """One format of results."""

    file: str  # its name, or that of a folder
    write: Callable[[Path, Sequence[Result]], None]
    needs_video: bool = False
    many: bool = False  # one file may hold several videos


FORMATS = {
    "coco": Format("coco.json", write_coco, many=True),
    "youtubevos": Format("youtubevos.zip", write_youtubevos, many=True),
    "alpha": Format("alpha", write_alpha, needs_video=True),
    "gif": Format("overlay.gif", write_gif, needs_video=True),
    "npz": Format("masks.npz", write_npz),
}


def export_result(
    folder: str | os.PathLike,
    formats: Sequence[str],
    output: str | os.PathLike | None = None,
    video: str | os.PathLike | None = None,
    overwrite: bool = False,
    keep_damaged: bool = False,
) -> list[Path]:
    """Exports one result, frame by frame, all formats or none; see `export_results`."""
    return export_results([folder], formats, output, video, overwrite, keep_damaged)


def export_results(
    folders: Sequence[str | os.PathLike],
    formats: Sequence[str],
    output: str | os.PathLike | None = None,
    video: str | os.PathLike | None = None,
    overwrite: bool = False,
    keep_damaged: bool = False,
) -> list[Path]:
    """Exports results, all formats or none. Video is streamed.

    Args:
      folders: that `oclr segment` wrote; several for formats that hold several videos.
      formats: keys of FORMATS.
      output: folder for the files; None for `exports` in the folder of the one result.
      video: that was segmented, for formats that show frames; None for the one that the record
        names.
      overwrite: replace files of these formats that `output` already holds.
      keep_damaged: as it was given to `oclr segment`.

    Returns:
      the files and folders that were written, in the order of `formats`.

    Raises:
      UserError: a result or the video cannot be used, a format is unknown or lacks what it needs,
        or `output` already has such files and `overwrite` is not set.
    """
    check_formats(formats)
    if len(folders) != 1:
        _check_several(formats, output, video)
    shown = any(FORMATS[name].needs_video for name in formats)
    results = [open_result(folder, video, shown, keep_damaged) for folder in folders]
    names = [result.name for result in results]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two of the results are of a video called {name}; export them one by one."
            )
    output = Path(folders[0], FOLDER) if output is None else Path(output)
    files = [FORMATS[name].file for name in formats]
    with staged_output(output, files, overwrite, [*folders, video]) as staging:
        write_formats(staging, formats, results)
    return [output / file for file in files]


def check_formats(formats: Sequence[str]) -> None:
    """Raises UserError unless these are different formats, at least one."""
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"There is no format {name!r}; choose from {', '.join(FORMATS)}.")
    if not formats or len(set(formats)) < len(formats):
        raise UserError("Name each format of the export once, separated by commas.")


def write_formats(folder: Path, formats: Sequence[str], results: Sequence[Result]) -> None:
    """Writes results to an existing folder, in all formats."""
    for name in formats:
        FORMATS[name].write(folder / FORMATS[name].file, results)


def _check_several(
    formats: Sequence[str], output: str | os.PathLike | None, video: str | os.PathLike | None
) -> None:
    single = [name for name in formats if not FORMATS[name].many]
    if single:
        raise UserError(f"A file of the format {single[0]} holds one video; export one result.")
    if output is None or video is not None:
        raise UserError("For several results give --output, and no --video.")

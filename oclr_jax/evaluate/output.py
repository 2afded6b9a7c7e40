"""The output folder of an evaluation: masks, metrics and report; an interrupted one is resumed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from oclr_jax.datasets.benchmarks import Benchmark
from oclr_jax.errors import UserError
from oclr_jax.evaluate.scores import Record
from oclr_jax.evaluate.table import write_csv
from oclr_jax.files import write_json
from oclr_jax.show.evaluation_page import write_evaluation_page
from oclr_jax.video.png import write_ids, write_png

_SETTINGS = "settings.json"


class EvaluationOutput:
    """Writes an evaluation to a folder. Without a folder (None) nothing is written.

    Layout: `masks/tracks/<sequence>/`, `masks/paper/<sequence>/`, `strips/<sequence>.png`,
    `sequences/<sequence>.json`, `settings.json`, and at the end `metrics.json`, `metrics.csv` and
    `report.html`. A learned model's folder has the same of the geometric baseline in `geometric/`.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]):
        """`settings`: of this evaluation.

        Raises UserError if the folder holds results with other settings, or of something else.
        """
        self.folder = folder
        self.settings = settings
        self.records = _read_records(folder, settings) if folder else {}

    def keep_masks(
        self, kind: str, sequence: str, stems: list[str], ids: UInt8[np.ndarray, "t h w"]
    ) -> None:
        """Writes the masks of a sequence; `kind` is "tracks" or "paper"."""
        if self.folder:
            self._write_settings(self.folder)
            for stem, frame in zip(stems, ids, strict=True):
                write_ids(self.folder / "masks" / kind / sequence / f"{stem}.png", frame)

    def keep_strip(self, sequence: str, strip: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes the picture of a sequence for the report."""
        if self.folder:
            self._write_settings(self.folder)
            write_png(self.folder / "strips" / f"{sequence}.png", strip)

    def keep_record(self, sequence: str, record: Record) -> None:
        """Writes the metrics of a sequence, which is then complete."""
        self.records[sequence] = record
        if self.folder:
            self._write_settings(self.folder)
            write_json(self.folder / "sequences" / f"{sequence}.json", record)

    def _write_settings(self, folder: Path) -> None:
        """Before anything else, so that a folder without them holds results of something else."""
        if not (folder / _SETTINGS).is_file():
            write_json(folder / _SETTINGS, self.settings)

    def finish(
        self, report: dict[str, Any], benchmark: Benchmark, baseline: dict[str, Any] | None = None
    ) -> None:
        """Writes the metrics of the dataset and the report, with the means of a baseline."""
        if self.folder:
            write_json(self.folder / "metrics.json", report)
            write_csv(self.folder / "metrics.csv", report)
            page, strips = self.folder / "report.html", self.folder / "strips"
            write_evaluation_page(page, report, benchmark, strips, baseline)


def _read_records(folder: Path, settings: dict[str, Any]) -> dict[str, Record]:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder for the results.")
    if not (folder / _SETTINGS).is_file():
        present = [name for name in ("masks", "metrics.json") if (folder / name).exists()]
        if present:
            raise UserError(
                f"The folder {folder} already has results ({', '.join(present)}) of something "
                "else; choose another one."
            )
        return {}
    before = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    changed = sorted(key for key in settings if settings[key] != before.get(key))
    if changed:
        raise UserError(
            f"The folder {folder} already has results made with another {', '.join(changed)}; "
            "choose another folder."
        )
    records = folder / "sequences"
    files = records.glob("*.json") if records.is_dir() else ()
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}

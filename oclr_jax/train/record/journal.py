"""What a training writes for people: scalars, image strips and curves."""

import io
import json
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from etils import epath
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from oclr_jax.files import replacing

Row = dict[str, Any]


class Journal:
    """The rows of a workdir: `metrics.jsonl`, TensorBoard events in `tensorboard/`, `curves.png`.

    A row is {"kind": "train" | "validation", "step": int, name: value, ...}. A training that
    resumes at a step continues after it: rows of later steps, which will be written again, go.

    Of several processes one keeps the journal; those of the others write nothing.
    """

    def __init__(self, workdir: str | os.PathLike, step: int, *, keeps: bool = True):
        self._folder = epath.Path(workdir)
        self._file = self._folder / "metrics.jsonl"
        self._keeps, self.rows = keeps, []
        if not keeps:
            return
        self.rows = [row for row in read_rows(self._file) if row["step"] <= step]
        with replacing(self._file) as unfinished:
            unfinished.write_text(_lines(self.rows))
        board = self._folder / "tensorboard"
        board.mkdir(exist_ok=True)
        # Not SummaryWriter: the thread in which it writes dies of a full disk and is waited for.
        self._board = EventsWriter(os.fspath(board / "events"))
        restart = SessionLog(status=SessionLog.START)
        self._board.write_event(Event(wall_time=time.time(), step=step + 1, session_log=restart))

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Adds a row to the file and its values to TensorBoard."""
        if not self._keeps:
            return
        row = {"kind": kind, "step": step} | {k: float(v) for k, v in values.items()}
        self.rows.append(row)
        if "://" in os.fspath(self._file):  # in a bucket files cannot grow
            self._file.write_text(_lines(self.rows))
        else:
            with self._file.open("a") as file:
                file.write(_lines([row]))
        for name, value in values.items():
            self._event(step, summary.scalar(f"{kind}/{name}", float(value)))
        self._board.flush()

    def image(self, name: str, step: int, png: bytes) -> None:
        """Adds an RGB picture to TensorBoard."""
        image = np.asarray(Image.open(io.BytesIO(png)))
        self._event(step, summary.image(name, image, dataformats="HWC"))
        self._board.flush()

    def has(self, kind: str, step: int) -> bool:
        """Whether there is such a row of this step."""
        return any(row["kind"] == kind and row["step"] == step for row in self.rows)

    def scores(self, name: str) -> list[float]:
        """The values so far of a validation score."""
        return [row[name] for row in self.rows if row["kind"] == "validation" and name in row]

    def plot(self, curves: Mapping[str, Iterable[str]]) -> bytes:
        """Draws `curves.png` anew; returns it. `curves` is as `plot_curves` takes it."""
        png = io.BytesIO()
        plot_curves(self.rows, curves, png)
        with replacing(self._folder / "curves.png") as unfinished:
            unfinished.write_bytes(png.getvalue())
        return png.getvalue()

    def close(self) -> None:
        if self._keeps:
            self._board.close()

    def _event(self, step: int, content: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, summary=content))


def _lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_rows(path: str | os.PathLike) -> list[Row]:
    """The rows of a `metrics.jsonl`; a last line that was cut off by a crash is left out."""
    path = epath.Path(path)
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def plot_curves(rows: list[Row], curves: Mapping[str, Iterable[str]], file: Any) -> None:
    """Values over the steps, as a PNG into `file`.

    Args:
      curves: of each panel by its title, as "kind/name" of the rows.
    """
    figure, axes = plt.subplots(1, len(curves), figsize=(5 * len(curves), 4), layout="constrained")
    for axis, (title, names) in zip(axes, curves.items(), strict=True):
        for curve in names:
            kind, name = curve.split("/")
            points = [(r["step"], r[name]) for r in rows if r["kind"] == kind and name in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=curve, marker="." * (len(points) < 50))
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    figure.savefig(file, format="png", dpi=100)
    plt.close(figure)

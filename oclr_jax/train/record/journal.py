"""Metrics of a training by step: `metrics.jsonl` and TensorBoard events."""

import io
import json
import os
import time
from typing import Any

import numpy as np
from etils import epath
from PIL import Image
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from oclr_jax.files import replacing

Row = dict[str, Any]

# Rows in a segment of a journal in a bucket. Objects there cannot grow, so each row rewrites its
# segment: what is uploaded per row is bounded, however long the training.
SEGMENT_ROWS = 32


class Journal:
    """The rows of a workdir: `metrics.jsonl`, and TensorBoard events in `tensorboard/`.

    A row is {"kind": "train" | "validation", "step": int, name: value, ...}. A training that
    resumes at a step continues after it; rows of later steps are dropped, because they will be
    written again.

    In a bucket (`gs://`) new rows go to segments, `metrics-000001.jsonl` and so on, which the next
    run and `close` merge into `metrics.jsonl`; there is a file of events for each segment too.

    Of several processes only the lead writes; in the others all methods do nothing.
    """

    def __init__(self, workdir: str | os.PathLike, step: int, *, writes: bool = True):
        self._folder = epath.Path(workdir)
        self._writes, self.rows = writes, []
        if not writes:
            return
        self._in_bucket = "://" in os.fspath(self._folder)
        self.rows = [row for row in read_rows(self._folder) if row["step"] <= step]
        self._merge()
        (self._folder / "tensorboard").mkdir(exist_ok=True)
        self._segment, self._segment_rows = 0, []
        self._open_events()
        restart = SessionLog(status=SessionLog.START)
        self._events.write_event(Event(wall_time=time.time(), step=step + 1, session_log=restart))

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Appends a row to the file and its values to TensorBoard."""
        if not self._writes:
            return
        row = {"kind": kind, "step": step} | {k: float(v) for k, v in values.items()}
        self.rows.append(row)
        if self._in_bucket:
            self._write_to_segment(row)
        else:
            with (self._folder / "metrics.jsonl").open("a") as file:
                file.write(_lines([row]))
        for name, value in values.items():
            self._add_event(step, summary.scalar(f"{kind}/{name}", float(value)))
        self._events.flush()

    def image(self, name: str, step: int, png: bytes) -> None:
        """Adds an RGB picture to TensorBoard; it is written with the next row."""
        image = np.asarray(Image.open(io.BytesIO(png)))
        self._add_event(step, summary.image(name, image, dataformats="HWC"))

    def has(self, kind: str, step: int) -> bool:
        """Whether there is a row of this kind and step."""
        return any(row["kind"] == kind and row["step"] == step for row in self.rows)

    def scores(self, name: str) -> list[float]:
        """The values of a validation score so far."""
        return [row[name] for row in self.rows if row["kind"] == "validation" and name in row]

    def close(self) -> None:
        """Writes what is pending."""
        if self._writes:
            self._events.close()
            if self._in_bucket:
                self._merge()

    def _merge(self) -> None:
        """Writes all rows to one file and removes the segments."""
        with replacing(self._folder / "metrics.jsonl") as temporary:
            temporary.write_text(_lines(self.rows))
        for path in self._folder.glob("metrics-*.jsonl"):
            path.unlink()

    def _write_to_segment(self, row: Row) -> None:
        if len(self._segment_rows) == SEGMENT_ROWS:
            self._segment, self._segment_rows = self._segment + 1, []
            self._events.close()
            self._open_events()
        self._segment_rows.append(row)
        path = self._folder / f"metrics-{self._segment:06d}.jsonl"
        path.write_text(_lines(self._segment_rows))

    def _open_events(self) -> None:
        # Not SummaryWriter: its thread dies on a full disk, and is waited for.
        prefix = os.fspath(self._folder / "tensorboard" / "events")
        self._events = EventsWriter(prefix, f".{self._segment:06d}")

    def _add_event(self, step: int, content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=content))


def _lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_rows(workdir: str | os.PathLike) -> list[Row]:
    """The rows of a workdir in their order; lines from the first damaged one on are left out."""
    folder = epath.Path(workdir)
    # A run that was killed while it merged leaves rows both in the file and in segments.
    rows: dict[tuple[str, int], Row] = {}
    for path in [folder / "metrics.jsonl", *sorted(folder.glob("metrics-*.jsonl"))]:
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
                rows.setdefault((row["kind"], row["step"]), row)
            except (ValueError, TypeError, KeyError):
                break
    return list(rows.values())

"""objects.json of a stream that has ended, from the lines that were written while it ran."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from oclr_jax.files import replacing
from oclr_jax.results import SCHEMA_VERSION, VideoEntry


@dataclass
class _Sum:
    """What is known of an object after all lines were read."""

    frames: int = 0
    score: float = 0.0
    rank: float = 0.0
    first: int = -1
    last: int = -1

    def add(self, frame: int, entry: dict[str, Any]) -> None:
        self.first = frame if self.first < 0 else self.first
        self.last = frame
        self.frames += 1
        self.score += entry["score"]
        self.rank += entry["depth_rank"]


def write_stream_record(
    path: Path,
    lines: Path,
    name: str,
    size: tuple[int, int],
    settings: dict[str, Any],
    source: str | os.PathLike | None,
) -> None:
    """Writes the record of a stream, which then is a result as any other, without amodal/.

    The lines are read once, and once more for each object; of the masks one frame is in memory.

    Args:
      path: of objects.json.
      lines: the file with a line of JSON for each frame.
      name: of the video.
      size: (height, width) of its frames, in pixels.
      settings: with which it was segmented.
      source: where the video lies, as in `VideoEntry`; None for one that is nowhere.
    """
    sums: dict[int, _Sum] = {}
    times, shots = [], []
    for line in _read(lines):
        times.append(line["time"])
        if line["shot"] == len(shots):
            shots.append([line["frame"], line["frame"]])
        shots[-1][1] = line["frame"]
        for entry in line["objects"]:
            sums.setdefault(entry["id"], _Sum()).add(line["frame"], entry)
    video = VideoEntry(
        name=name,
        frames=len(times),
        height=size[0],
        width=size[1],
        fps=(len(times) - 1) / times[-1] if times[-1] > 0 else 24.0,
        times=times,
        pixel_aspect=[1, 1],
        repeats=[],
        shots=shots,
        moves=bool(sums),
    )
    if source is not None:
        video["source"] = os.fspath(source)
    head = {"schema_version": SCHEMA_VERSION, "video": video, "settings": settings}
    front_to_back = sorted(sums, key=lambda id: (sums[id].rank / sums[id].frames, id))
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "objects": [')
        for place, id in enumerate(sorted(sums)):
            file.write(",\n" if place else "\n")
            _write_object(file, lines, id, front_to_back.index(id), sums[id])
        file.write("\n]}\n")


def _write_object(file: TextIO, lines: Path, id: int, depth_rank: int, found: _Sum) -> None:
    head = {
        "id": id,
        "depth_rank": depth_rank,
        "first_frame": found.first,
        "last_frame": found.last,
        "score": round(found.score / found.frames, 4),
    }
    file.write(json.dumps(head)[:-1] + ', "frames": [')
    separator = "\n"
    for line in _read(lines):
        for entry in line["objects"]:
            if entry["id"] == id:
                kept = {name: entry[name] for name in entry if name not in ("id", "depth_rank")}
                file.write(separator + json.dumps(kept))
                separator = ",\n"
    file.write("]}")


def _read(lines: Path) -> Iterator[dict[str, Any]]:
    with open(lines, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)

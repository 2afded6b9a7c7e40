"""Replays the corrections of a result into a folder of corrected results."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from oclr_jax.corrections.file import Corrections
from oclr_jax.corrections.frames import Step, correct_masks, correct_scores
from oclr_jax.corrections.operations import Scene
from oclr_jax.corrections.result import Result
from oclr_jax.export.exporter import FOLDER as EXPORTS
from oclr_jax.export.exporter import FORMATS, check_formats, write_formats
from oclr_jax.export.result import open_result
from oclr_jax.files import staged_output, write_json
from oclr_jax.results import (
    FrameEntry,
    SegmentationRecord,
    VideoEntry,
    frame_entry,
    object_entry,
    source_from,
)
from oclr_jax.show.overlay import paint_ids
from oclr_jax.video.clip import progress
from oclr_jax.video.png import write_ids, write_png
from oclr_jax.video.reader import VideoSource
from oclr_jax.video.writer import video_writer

CORRECTED = "corrected"  # folder of the corrected results, inside that of the results
NAMES = ("masks", "amodal", "foreground", "overlay.mp4", EXPORTS, "objects.json")

Scores = dict[int, tuple[float, int]]


def apply_corrections(
    result: str | os.PathLike,
    video: str | os.PathLike | None = None,
    overlay: bool = True,
    export: Sequence[str] = (),
    quiet: bool = True,
) -> SegmentationRecord:
    """Writes corrected results to `corrected` in the folder of the results, which stay as they are.

    The corrected folder has the layout of `oclr segment`, and foreground/<stem>.png (0 and 255)
    where a foreground was chosen. An earlier one is replaced, whole or not at all. The video is
    streamed, so that memory does not grow with its length, apart from the compressed masks.

    Args:
      result: folder of results, with or without a corrections.json.
      video: where the video of the results is, if it was moved.
      overlay: whether to write the overlay video, for which the video is needed.
      export: formats in which the corrected results are also written to exports/ in their folder;
        see `export.FORMATS`.
      quiet: no progress bars.

    Returns the content of the new objects.json. Raises UserError for results, corrections or a
    video that cannot be read, and where nothing can be written.
    """
    if export:
        check_formats(export)
    found = Result(result)
    corrections = Corrections(result, found.record)
    output = found.folder / CORRECTED
    inputs = (video,) if video is not None else ()
    with staged_output(output, NAMES, overwrite=True, inputs=inputs) as folder:
        shown = overlay or any(FORMATS[name].needs_video for name in export)
        source = found.open_video(video) if shown else None
        frames = found.frames(source) if overlay else repeat(None)
        entries = _write(folder, found, corrections, frames, overlay, quiet)
        record = _record(found.record, corrections, entries)
        if (name := _source(found, source, output)) is not None:
            record["video"]["source"] = name
        write_json(folder / "objects.json", record)
        if export:
            (folder / EXPORTS).mkdir()
            _export(folder, export, source)
    return record


def scores_of_frames(record: SegmentationRecord, steps: Sequence[Step] = ()) -> list[Scores]:
    """The (score, visible area) of the corrected objects of every frame, by id."""
    scores: list[Scores] = [{} for _ in range(record["video"]["frames"])]
    for entry in record["objects"]:
        for found in entry["frames"]:
            scores[found["frame"]][entry["id"]] = (found["score"], found["area"])
    return [correct_scores(steps, frame, here) for frame, here in enumerate(scores)]


def _export(folder: Path, formats: Sequence[str], source: VideoSource | None) -> None:
    images = source is not None
    video = source.path if images else None
    damaged = images and source.damage is not None
    exported = open_result(folder, video, with_images=images, keep_damaged=damaged)
    write_formats(folder / EXPORTS, formats, [exported])


def _write(
    folder: Path, found: Result, corrections: Corrections, frames, overlay: bool, quiet: bool
) -> dict[int, list[FrameEntry]]:
    """Writes the masks and the overlay of all frames; returns the entries of each object."""
    scene, steps = corrections.scene, corrections.steps
    for part in ("masks", "amodal", *(f"amodal/{id}" for id in scene.order)):
        (folder / part).mkdir()
    if scene.foreground:
        (folder / "foreground").mkdir()
    scores = scores_of_frames(found.record, steps)
    entries: dict[int, list[FrameEntry]] = {id: [] for id in scene.order}
    video = found.record["video"]
    opened = _overlay_writer(folder, video) if overlay else nullcontext()
    with opened as add_frame:
        shown = zip(range(video["frames"]), frames)  # noqa: B905 - `repeat` has no end
        for frame, image in progress(shown, "writing", video["frames"], quiet):
            stem = found.stems[frame]
            ids, amodal = correct_masks(steps, frame, *found.masks(frame))
            _write_frame(folder, scene, stem, ids, amodal)
            for id, (score, _) in scores[frame].items():
                full = amodal.get(id, np.zeros(ids.shape, bool))
                if full.any() or (ids == id).any():
                    entries[id].append(frame_entry(frame, stem, ids == id, full, score))
            if overlay:
                add_frame(paint_ids(image, ids))
        for _ in frames if overlay else ():
            pass  # notices a video that is longer
    return entries


def _write_frame(folder: Path, scene: Scene, stem: str, ids: np.ndarray, amodal: dict) -> None:
    write_ids(folder / "masks" / f"{stem}.png", ids)
    for id, mask in amodal.items():
        write_png(folder / "amodal" / str(id) / f"{stem}.png", mask * np.uint8(255))
    if scene.foreground:
        seen = np.isin(ids, scene.foreground)
        write_png(folder / "foreground" / f"{stem}.png", seen * np.uint8(255))


def _overlay_writer(folder: Path, video: VideoEntry):
    fps = Fraction(video["fps"]).limit_denominator(65535)
    # Times are rounded in the record; those of a constant rate are exact without them.
    even = all(abs(time - frame / fps) < 1e-5 for frame, time in enumerate(video["times"]))
    times = None if even else [Fraction(time).limit_denominator(10**6) for time in video["times"]]
    return video_writer(
        folder / "overlay.mp4",
        fps,
        video["height"],
        video["width"],
        times,
        Fraction(*video["pixel_aspect"]),
    )


def _record(
    record: SegmentationRecord, corrections: Corrections, entries: dict[int, list[FrameEntry]]
) -> SegmentationRecord:
    scene = corrections.scene
    settings: dict[str, Any] = {
        **record["settings"],
        "corrections": corrections.to_json(),
        "foreground": list(scene.foreground),
    }
    objects = [
        object_entry(id, scene.order.index(id), frames)
        for id, frames in sorted(entries.items())
        if frames
    ]
    return SegmentationRecord(
        schema_version=record["schema_version"],
        video={**record["video"]},
        settings=settings,
        objects=objects,
    )


def _source(found: Result, source: VideoSource | None, output: Path) -> str | None:
    """The path of the video for the new record: where it was opened, or where it was."""
    if source is not None:
        return source_from(output, source.path)
    old = found.record["video"].get("source")
    return None if old is None else source_from(output, found.folder / old)

"""`oclr segment --online`: masks of a stream while it runs, in constant memory.

The masks of a frame are written as soon as a fixed number of frames after it has been read. Nothing
that was written changes later, so there are no refiners, and no object gets its id from what
follows. The rest is as in `pipeline`.
"""

import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, count, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.files import locked_output, write_json
from oclr_jax.flow import FlowEstimator, FrameFlow, shot_flow
from oclr_jax.flow.source import model_estimator, warn_of_other_flow
from oclr_jax.oclr.online_tracks import LiveWindow, OnlineTracker, live_windows, split_delay
from oclr_jax.oclr.predict import Segmenter, load_segmenter, overlap_of, window_layers
from oclr_jax.online_record import write_stream_record
from oclr_jax.pipeline import describe_settings
from oclr_jax.results import RESULT_NAMES, source_from, track_entries
from oclr_jax.signals import noted_signals
from oclr_jax.tracks import Track, frame_masks
from oclr_jax.video.live import LiveFrame, live_frames
from oclr_jax.video.png import write_ids
from oclr_jax.video.shots import CutFinder, thumbnail

LINES, SETTINGS = "frames.jsonl", "settings.json"
_NAMES = (*RESULT_NAMES, LINES, SETTINGS)


class Stream(NamedTuple):
    """What was segmented when the stream ended."""

    frames: int
    objects: int
    delay: int  # in frames
    interrupted: bool


class _Waiting(NamedTuple):
    """A frame whose masks are not known yet."""

    shot: int
    time: float
    size: tuple[int, int]


def segment_online(
    source: str | os.PathLike,
    output: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    flow: str | None = None,
    delay: int | None = None,
    raw: tuple[int, int] | None = None,
    overwrite: bool = False,
    precision: str | None = None,
    passes: int | None = None,
    model: str = "oclr",
    quiet: bool = True,
) -> Stream:
    """Segments a stream while it runs, until it ends or Ctrl-C or SIGTERM arrive.

    Writes masks/<frame>.png (indexed), one line of JSON per frame to frames.jsonl, and
    settings.json, all of them while the stream runs, and objects.json when it has ended.

    Args:
      source, raw: see `live_frames`.
      output: folder, created if needed.
      weights, precision, passes, model: see `segment_to_folder`.
      flow: an estimator; None for the one of the weights.
      delay: in frames; None for that with which the model runs as often as on a file.
      overwrite: replace results that `output` already holds.
      quiet: do not print the delay.

    Raises:
      UserError: the stream cannot be read or there is no such delay, and as `segment_to_folder`.
    """
    segmenter = load_segmenter(weights, precision, passes, model)
    info = segmenter.info
    estimator = model_estimator(flow, info.flow, segmenter.precision)
    if estimator is None:
        raise UserError("A stream has no folder of flow; name an estimator with --flow.")
    if info.data_version is not None:
        warn_of_other_flow(info.name, info.flow, estimator.settings())
    reach = max(abs(gap) for gap in info.model.gaps)
    chosen = split_delay(delay, info.model.frames, overlap_of(info.model), reach)
    with locked_output(output) as folder:
        _make_room(folder, output, overwrite)
        if not quiet:
            print(f"The masks follow their frames by {chosen.frames} frames.", file=sys.stderr)
        waiting: deque[_Waiting] = deque()
        settings = describe_settings(segmenter, estimator, ()) | {"delay": chosen.frames}
        with noted_signals() as signals:
            frames = _until(live_frames(source, raw), signals)
            flows = live_flow(frames, estimator, segmenter, waiting)
            windows = live_windows(flows, info.model.frames, chosen)
            written, objects, size = _write(folder, segmenter, windows, waiting, settings)
            path = Path(source) if os.path.isfile(source) else None
            write_stream_record(
                folder / "objects.json",
                folder / LINES,
                path.stem if path else "stream",
                size,
                settings,
                source_from(output, path) if path else None,
            )
    return Stream(written, objects, chosen.frames, bool(signals))


def live_flow(
    frames: Iterable[LiveFrame],
    estimator: FlowEstimator,
    segmenter: Segmenter,
    waiting: deque[_Waiting],
) -> Iterator[FrameFlow]:
    """Yields the flow of each frame as soon as the frames that it needs are there.

    Every frame that is read is appended to `waiting`. A shot too short to have flow at the gaps is
    left out.
    """
    model = segmenter.info.model
    shortest = 2 * max(abs(gap) for gap in model.gaps)
    numbered = _with_shots(frames, waiting)
    for shot, of_shot in groupby(numbered, key=lambda found: found[0]):
        first = list(islice(of_shot, shortest))
        if len(first) < shortest:
            continue
        images = (image for _, _, image in chain(first, of_shot))
        size = (model.height, model.width)
        found = shot_flow(images, count(first[0][1]), estimator, model.gaps, size, batch=1)
        for frame, flow, image in found:
            yield FrameFlow(shot, frame, flow, image)


def _with_shots(
    frames: Iterable[LiveFrame], waiting: deque[_Waiting]
) -> Iterator[tuple[int, int, np.ndarray]]:
    cuts, shot = CutFinder(), 0
    for number, (time, image) in enumerate(frames):
        shot += cuts.add(thumbnail(image))
        waiting.append(_Waiting(shot, time, image.shape[:2]))
        yield shot, number, image


def _until(frames: Iterator[LiveFrame], signals: Sequence[int]) -> Iterator[LiveFrame]:
    """The frames until a signal arrives: a camera has no other end."""
    for frame in frames:
        yield frame
        if signals:
            break


def _make_room(folder: Path, output: str | os.PathLike, overwrite: bool) -> None:
    present = [folder / name for name in _NAMES if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"The folder {os.fspath(output)} already has results ({present[0].name}); choose "
            "another one or add --overwrite."
        )
    for path in present:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write(
    folder: Path,
    segmenter: Segmenter,
    windows: Iterable[LiveWindow],
    waiting: deque[_Waiting],
    settings: dict[str, Any],
) -> tuple[int, int, tuple[int, int]]:
    """Writes the masks of all frames while they come.

    Returns how many frames and objects there were, and the size of the frames.
    """
    tracker, written, ids, size = OnlineTracker(), 0, set(), (0, 0)
    with ExitStack() as opened:
        lines = None
        for window, frames in windows:
            if lines is None:
                # Nothing is made before the stream has shown that it is a video.
                (folder / "masks").mkdir()
                write_json(folder / SETTINGS, settings)
                lines = opened.enter_context(open(folder / LINES, "w", encoding="utf-8"))
                size = waiting[0].size
            tracks = tracker.add(window_layers(segmenter, window), frames)
            ids |= {track.id for track in tracks}
            while written < frames.stop:
                # Frames of shots that are too short for flow have no window, and no objects.
                _write_frame(folder, lines, tracks, written, waiting.popleft())
                written += 1
        if lines is None:
            raise UserError("The stream ended before the second frame; motion needs two.")
        while waiting:
            _write_frame(folder, lines, [], written, waiting.popleft())
            written += 1
    return written, len(ids), size


def _write_frame(
    folder: Path, lines: TextIO, tracks: list[Track], frame: int, read: _Waiting
) -> None:
    stem, rank = f"{frame:05d}", {track.id: track.rank for track in tracks}
    ids, amodal = frame_masks(tracks, frame, *read.size)
    write_ids(folder / "masks" / f"{stem}.png", ids)
    entries = track_entries(tracks, frame, stem, ids, amodal)
    objects = [{"id": id, "depth_rank": rank[id], **entry} for id, entry in entries.items()]
    # The line after the mask: whoever reads it finds the mask.
    lines.write(
        json.dumps(
            {"frame": frame, "time": round(read.time, 6), "shot": read.shot, "objects": objects}
        )
        + "\n"
    )
    lines.flush()

"""A video in; tracked objects with their amodal masks and their depth order out."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8

import oclr_jax
from oclr_jax.files import staged_output, write_json
from oclr_jax.flow import FlowEstimator, FlowFolder, FrameFlow, open_source, stream_flow
from oclr_jax.oclr.predict import (
    STILL_FLOW,
    Segmenter,
    find_tracks,
    load_segmenter,
    overlap_of,
)
from oclr_jax.oclr.tracking import MIN_AREA, MIN_LINK_IOU, MIN_SCORE
from oclr_jax.results import (
    RESULT_NAMES,
    SCHEMA_VERSION,
    FrameEntry,
    SegmentationRecord,
    VideoEntry,
    frame_entry,
    object_entry,
)
from oclr_jax.show.overlay import paint_ids
from oclr_jax.tracks import Track, frame_masks
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.png import write_ids, write_png
from oclr_jax.video.writer import video_writer

_WRITERS = 2  # threads that compress masks
Result = TypeVar("Result")


@dataclass(frozen=True)
class Segmentation:
    """The moving objects of a video, as arrays at its own resolution."""

    masks: UInt8[np.ndarray, "t h w"]  # id of the object that is seen, 0 for none
    amodal: dict[int, Bool[np.ndarray, "t h w"]]  # by id, with what lies hidden
    order: list[int]  # ids, front to back
    record: SegmentationRecord  # what objects.json holds
    flow: Float32[np.ndarray, "t H W c"]  # (u, v) per gap on the model's grid, in its pixels


def segment_video(
    frames_or_path: str | os.PathLike | UInt8[np.ndarray, "t h w 3"],
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    quiet: bool = True,
    keep_damaged: bool = False,
) -> Segmentation:
    """Segments a video in memory; `segment_to_folder` is the same for videos of any length.

    Args:
      frames_or_path: RGB frames, a video file, or a folder of jpg or png frames.
      weights: name or file, None for those of the package.
      flow: an estimator's name, a folder of .flo files, or None for the weights' own estimator.
      quiet: no progress bar.
      keep_damaged: use the intact frames of a damaged video file instead of refusing it.

    Raises UserError for anything that cannot be segmented.
    """
    segmenter = load_segmenter(weights)
    clip = open_clip(frames_or_path, quiet, keep_damaged)
    model = segmenter.info.model
    source = open_source(flow, segmenter.info.flow, clip, model.gaps)
    fields = np.zeros((clip.count, model.height, model.width, 2 * len(model.gaps)), np.float32)

    def remembered() -> Iterator[FrameFlow]:
        for flow in stream_flow(clip, source, model.gaps, (model.height, model.width)):
            fields[flow.frame] = flow.flow
            yield flow

    tracks, moves = find_tracks(segmenter, progress(remembered(), "segmenting", clip.count, quiet))
    masks = np.zeros((clip.count, clip.height, clip.width), np.uint8)
    amodal = {track.id: np.zeros(masks.shape, bool) for track in tracks}
    entries = []
    for frame in range(clip.count):
        masks[frame], present = frame_masks(tracks, frame, clip.height, clip.width)
        for id, mask in present.items():
            amodal[id][frame] = mask
        entries.append(_frame_entries(tracks, frame, clip.stems[frame], masks[frame], present))
    order = [track.id for track in sorted(tracks, key=lambda track: track.rank)]
    record = _record(segmenter, clip, source, tracks, entries, moves)
    return Segmentation(masks, amodal, order, record, fields)


def segment_to_folder(
    input: str | os.PathLike,
    output: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    overlay: bool = True,
    overwrite: bool = False,
    quiet: bool = True,
    keep_damaged: bool = False,
) -> SegmentationRecord:
    """Segments a video file or a folder of frames into the folder `output`, whole or not at all.

    Writes masks/<stem>.png (indexed), amodal/<id>/<stem>.png (0 and 255), objects.json and, with
    `overlay`, overlay.mp4. The video is streamed three times (looked through, segmented, painted),
    so memory does not grow with its length but for the masks' run-length codes. The same input
    gives the same bytes. `keep_damaged` as in `segment_video`.

    Returns what objects.json holds. Raises UserError for anything that cannot be segmented, and
    where `output` already has results and not `overwrite`.
    """
    # Staged before the first frame is read, so that an output that cannot be written is refused at
    # once.
    with staged_output(output, RESULT_NAMES, overwrite, (input, weights, flow)) as folder:
        segmenter = load_segmenter(weights)
        clip = open_clip(input, quiet, keep_damaged)
        model = segmenter.info.model
        source = open_source(flow, segmenter.info.flow, clip, model.gaps)
        flows = stream_flow(clip, source, model.gaps, (model.height, model.width))
        tracks, moves = find_tracks(segmenter, progress(flows, "segmenting", clip.count, quiet))
        entries = _write_frames(folder, clip, tracks, overlay, quiet)
        record = _record(segmenter, clip, source, tracks, entries, moves)
        write_json(folder / "objects.json", record)
    return record


def _write_frames(
    folder: Path, clip: Clip, tracks: list[Track], overlay: bool, quiet: bool
) -> list[dict[int, FrameEntry]]:
    """Writes masks and, with `overlay`, the overlay video; returns the entries of each frame."""
    for part in ("masks", "amodal"):
        (folder / part).mkdir()
    for track in tracks:
        (folder / "amodal" / str(track.id)).mkdir()

    def write(frame: int, image: UInt8[np.ndarray, "h w 3"]):
        return _write_frame(folder, clip, tracks, frame, image if overlay else None)

    path, size = folder / "overlay.mp4", (clip.height, clip.width)
    shown = {"times": clip.times, "pixel_aspect": clip.pixel_aspect}
    entries = []
    with (
        ThreadPoolExecutor(_WRITERS) as writers,
        video_writer(path, clip.fps, *size, **shown) if overlay else nullcontext() as add_frame,
    ):
        frames = progress(enumerate(clip.frames()), "writing", clip.count, quiet)
        for found, painted in _in_order(writers, write, frames):
            entries.append(found)
            if overlay:
                add_frame(painted)
    return entries


def _write_frame(folder: Path, clip: Clip, tracks: list[Track], frame: int, image):
    """Writes the masks of one frame; returns its entries and, where given, the image painted."""
    ids, amodal = frame_masks(tracks, frame, clip.height, clip.width)
    stem = clip.stems[frame]
    write_ids(folder / "masks" / f"{stem}.png", ids)
    nothing = np.zeros(ids.shape, bool)
    for track in tracks:
        path = folder / "amodal" / str(track.id) / f"{stem}.png"
        write_png(path, amodal.get(track.id, nothing) * np.uint8(255))
    entries = _frame_entries(tracks, frame, stem, ids, amodal)
    return entries, None if image is None else paint_ids(image, ids)


def _frame_entries(
    tracks: list[Track],
    frame: int,
    stem: str,
    ids: UInt8[np.ndarray, "h w"],
    amodal: dict[int, Bool[np.ndarray, "h w"]],
) -> dict[int, FrameEntry]:
    return {
        id: frame_entry(frame, stem, ids == id, mask, tracks[id - 1].frame_score(frame))
        for id, mask in amodal.items()
    }


def _record(
    segmenter: Segmenter,
    clip: Clip,
    source: FlowEstimator | FlowFolder,
    tracks: list[Track],
    entries: list[dict[int, FrameEntry]],
    moves: bool,
) -> SegmentationRecord:
    info = segmenter.info
    objects = []
    for track in tracks:
        frames = [found[track.id] for found in entries if track.id in found]
        if frames:
            objects.append(object_entry(track.id, track.rank, frames))
    return SegmentationRecord(
        schema_version=SCHEMA_VERSION,
        video=VideoEntry(
            name=clip.name,
            frames=clip.count,
            height=clip.height,
            width=clip.width,
            fps=float(clip.fps),
            times=[round(float(time), 6) for time in clip.times],
            pixel_aspect=list(clip.pixel_aspect.as_integer_ratio()),
            shots=[[shot.start, shot.stop - 1] for shot in clip.shots],
            moves=moves,
        ),
        settings={
            "version": oclr_jax.__version__,
            "weights": info.name,
            "data_version": info.data_version,
            "flow": "folder" if isinstance(source, FlowFolder) else source.settings(),
            "gaps": list(info.model.gaps),
            "window": info.model.frames,
            "overlap": overlap_of(info.model),
            "order_from": info.model.order_from,
            "grid": [info.model.height, info.model.width],
            "still_flow": STILL_FLOW,
            "min_link_iou": MIN_LINK_IOU,
            "min_area": MIN_AREA,
            "min_score": MIN_SCORE,
        },
        objects=objects,
    )


def _in_order(
    workers: ThreadPoolExecutor, function: Callable[..., Result], items: Iterable[tuple]
) -> Iterator[Result]:
    """The results of function(*item), in order; few items are worked on at a time."""
    waiting: deque = deque()
    for item in items:
        waiting.append(workers.submit(function, *item))
        if len(waiting) > _WRITERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

"""The one path from a video to its results: flow, layers, tracks, refiners, masks."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, UInt8

import oclr_jax
from oclr_jax.export.exporter import FOLDER as EXPORTS
from oclr_jax.export.exporter import check_formats, write_formats
from oclr_jax.export.result import Result
from oclr_jax.files import staged_output, write_json
from oclr_jax.flow import FlowEstimator, FlowFolder, FrameFlow, open_source, stream_flow
from oclr_jax.flow.source import warn_of_other_flow
from oclr_jax.oclr.predict import STILL_FLOW, Segmenter, find_tracks, load_segmenter, overlap_of
from oclr_jax.oclr.tracking import MIN_AREA, MIN_LINK_IOU, MIN_SCORE
from oclr_jax.refine.depth import order_by_occlusion
from oclr_jax.refine.refiner import (
    Refiner,
    RefinerVideo,
    describe_refiners,
    human_annotation,
    open_refiners,
    refine_tracks,
)
from oclr_jax.results import (
    RESULT_NAMES,
    FrameEntry,
    SegmentationRecord,
    make_record,
    source_from,
    track_entries,
)
from oclr_jax.show.overlay import paint_ids
from oclr_jax.tracks import Track, frame_masks
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.png import write_ids, write_png
from oclr_jax.video.writer import video_writer

_WRITERS = 2  # threads that compress masks
Value = TypeVar("Value")


@dataclass(frozen=True)
class SegmentedVideo:
    """The moving objects of a video, as arrays at its own resolution."""

    masks: UInt8[np.ndarray, "t h w"]  # id of the object that is visible, 0 for none
    amodal: dict[int, Bool[np.ndarray, "t h w"]]  # by id, occluded parts included
    order: list[int]  # ids, front to back
    record: SegmentationRecord  # the content of objects.json
    flow: Float32[np.ndarray, "t H W c"]  # (u, v) per gap on the model grid, in its pixels


def run(
    clip: Clip,
    flows: Iterable[FrameFlow],
    segmenter: Segmenter,
    refiners: Sequence[Refiner] = (),
    quiet: bool = True,
) -> tuple[list[Track], bool]:
    """Finds and refines the tracks of a video.

    Args:
      clip: the video.
      flows: its flow on the model grid, frame by frame. It is consumed as a stream.
      segmenter: the flow model.
      refiners: applied to the tracks in this order. Flow and probabilities are kept for them in a
        temporary file, 0.25 MB per frame on a grid of 128x224; without refiners nothing is kept.
      quiet: no progress bars.

    Returns the tracks by id, and whether anything in the video moves.
    """
    flows = progress(flows, "segmenting", clip.count, quiet)
    if not refiners:
        return find_tracks(segmenter, flows)
    model = segmenter.info.model
    video = RefinerVideo(clip, tuple(model.gaps), (model.height, model.width), quiet)
    tracks, moves = find_tracks(segmenter, video.remember_flow(flows), video.probabilities)
    tracks = refine_tracks(refiners, video, tracks)
    if orders_by_occlusion(segmenter, refiners):
        tracks = order_by_occlusion(video, tracks)
    return tracks, moves


def orders_by_occlusion(segmenter: Segmenter, refiners: Sequence[Refiner]) -> bool:
    """Whether the depth order comes from refined masks, not from the flow model.

    It does for weights whose layers are composed by confidence, which is no depth order. `select`
    alone leaves the masks as they are, so it does not count.
    """
    refined = any(refiner.name != "select" for refiner in refiners)
    return refined and segmenter.info.model.order_from == "overlap"


def segment_video(
    frames_or_path: str | os.PathLike | UInt8[np.ndarray, "t h w 3"],
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    refine: Sequence[str] | None = None,
    quiet: bool = True,
    keep_damaged: bool = False,
    precision: str | None = None,
    passes: int | None = None,
    refine_weights: str | os.PathLike | None = None,
    model: str = "oclr",
) -> SegmentedVideo:
    """Segments a video in memory. For long videos use `segment_to_folder`.

    Args:
      frames_or_path: RGB frames, a video file, or a folder of jpg or png frames.
      weights: name or file, None for those of the package.
      flow: an estimator, a folder of flow files (see `oclr_jax.flow.source`), or None for the
        estimator that the weights were trained with.
      refine: names of refiners, applied in this order; None for `self`, () for no refinement.
      quiet: no progress bars.
      keep_damaged: use the intact frames of a damaged video file instead of refusing it.
      precision: of the models, "float32" or "bfloat16"; None for float32 on a CPU, else bfloat16.
      passes: of the flow model, whose masks are averaged: 1, 2 (mirrored) or 4 (and reversed);
        None for those of the weights.
      refine_weights: folder with the weights of trained refiners; None for the default ones.
      model: "oclr", or a baseline: one of `types.MODELS`.

    Raises UserError for anything that cannot be segmented.
    """
    refiners = open_refiners(refine, refine_weights)
    segmenter = load_segmenter(weights, precision, passes, model)
    clip = open_clip(frames_or_path, quiet, keep_damaged)
    config = segmenter.info.model
    source = _open_source(segmenter, flow, clip)
    moving, positions = _without_repeats(clip, source)
    fields = np.zeros((moving.count, config.height, config.width, 2 * len(config.gaps)), np.float32)

    def remember(flows: Iterable[FrameFlow]) -> Iterator[FrameFlow]:
        for frame_flow in flows:
            fields[frame_flow.frame] = frame_flow.flow
            yield frame_flow

    flows = remember(stream_flow(moving, source, config.gaps, (config.height, config.width)))
    tracks, moves = run(moving, flows, segmenter, refiners, quiet)
    tracks = [track.at_frames(positions) for track in tracks]
    masks = np.zeros((clip.count, clip.height, clip.width), np.uint8)
    amodal = {track.id: np.zeros(masks.shape, bool) for track in tracks}
    entries = []
    for frame in range(clip.count):
        masks[frame], present = frame_masks(tracks, frame, clip.height, clip.width)
        for id, mask in present.items():
            amodal[id][frame] = mask
        entries.append(track_entries(tracks, frame, clip.stems[frame], masks[frame], present))
    order = [track.id for track in sorted(tracks, key=lambda track: track.rank)]
    record = make_record(
        clip, describe_settings(segmenter, source, refiners), tracks, entries, moves
    )
    return SegmentedVideo(masks, amodal, order, record, fields[positions])


def segment_to_folder(
    input: str | os.PathLike,
    output: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    refine: Sequence[str] | None = None,
    overlay: bool = True,
    overwrite: bool = False,
    quiet: bool = True,
    keep_damaged: bool = False,
    precision: str | None = None,
    passes: int | None = None,
    refine_weights: str | os.PathLike | None = None,
    model: str = "oclr",
    export: Sequence[str] = (),
) -> SegmentationRecord:
    """Segments a video file or a folder of frames into the folder `output`, whole or not at all.

    Writes masks/<stem>.png (indexed), amodal/<id>/<stem>.png (0 and 255; only of frames in which
    the object has a modal or an amodal mask), objects.json and, with `overlay`, overlay.mp4. The
    video is streamed three times (checked, segmented, painted), so that memory does not grow with
    its length, apart from the compressed masks. The same input gives the same bytes.

    Args:
      input: video file, or folder of jpg or png frames.
      output: folder, created if needed.
      weights, flow, refine, quiet, keep_damaged, precision, passes, refine_weights, model: see
        `segment_video`.
      overlay: whether to write the overlay video.
      overwrite: replace results that `output` already holds.
      export: formats in which the result is also written to exports/, see `export.FORMATS`.

    Returns the content of objects.json. Raises UserError for anything that cannot be segmented, and
    if `output` already holds results and `overwrite` is not set.
    """
    if export:
        check_formats(export)
    refiners = open_refiners(refine, refine_weights)
    # Staged before the first frame is read, so that an output that cannot be written is refused at
    # once.
    with staged_output(output, RESULT_NAMES, overwrite, (input, weights, flow)) as folder:
        segmenter = load_segmenter(weights, precision, passes, model)
        return segment_into(
            folder,
            output,
            input,
            segmenter,
            flow,
            refiners,
            overlay=overlay,
            quiet=quiet,
            keep_damaged=keep_damaged,
            export=export,
        )


def segment_into(
    folder: Path,
    output: str | os.PathLike,
    input: str | os.PathLike,
    segmenter: Segmenter,
    flow: FlowEstimator | str | os.PathLike | None,
    refiners: Sequence[Refiner],
    overlay: bool,
    quiet: bool,
    keep_damaged: bool,
    export: Sequence[str],
) -> SegmentationRecord:
    """Segments a video with models that are open; see `segment_to_folder`.

    Args:
      folder: an empty one, in which the results are made.
      output: where they will lie.
      flow: may also be an open estimator.
    """
    clip = open_clip(input, quiet, keep_damaged)
    config = segmenter.info.model
    source = _open_source(segmenter, flow, clip)
    moving, positions = _without_repeats(clip, source)
    flows = stream_flow(moving, source, config.gaps, (config.height, config.width))
    tracks, moves = run(moving, flows, segmenter, refiners, quiet)
    tracks = [track.at_frames(positions) for track in tracks]
    entries = _write_masks(folder, clip, tracks, overlay, quiet)
    settings = describe_settings(segmenter, source, refiners)
    path = source_from(output, input)
    record = make_record(clip, settings, tracks, entries, moves, path)
    write_json(folder / "objects.json", record)
    if export:
        (folder / EXPORTS).mkdir()
        write_formats(folder / EXPORTS, export, [Result(record, clip.stems, clip.frames)])
    return record


def _open_source(
    segmenter: Segmenter, flow: FlowEstimator | str | os.PathLike | None, clip: Clip
) -> FlowEstimator | FlowFolder:
    """Opens the flow of a clip for a model; warns if the model was trained on other flow."""
    if isinstance(flow, FlowEstimator):
        return flow
    info = segmenter.info
    source = open_source(flow, info.flow, clip, info.model.gaps, segmenter.precision)
    if not isinstance(source, FlowFolder) and info.data_version is not None:
        warn_of_other_flow(info.name, info.flow, source.settings())
    return source


def _write_masks(
    folder: Path, clip: Clip, tracks: list[Track], overlay: bool, quiet: bool
) -> list[dict[int, FrameEntry]]:
    """Writes masks and overlay of all frames; returns the entries of each frame by id."""
    for part in ("masks", "amodal", *(f"amodal/{track.id}" for track in tracks)):
        (folder / part).mkdir()

    def write(frame: int, image: UInt8[np.ndarray, "h w 3"]):
        return _write_frame(folder, clip, tracks, frame, image if overlay else None)

    path, size = folder / "overlay.mp4", (clip.height, clip.width)
    shown = {"times": clip.times, "pixel_aspect": clip.pixel_aspect}
    opened = video_writer(path, clip.fps, *size, **shown) if overlay else nullcontext()
    with ThreadPoolExecutor(_WRITERS) as writers, opened as add_frame:
        entries = []
        frames = progress(enumerate(clip.frames()), "writing", clip.count, quiet)
        for found, painted in _in_order(writers, write, frames):
            entries.append(found)
            if overlay:
                add_frame(painted)
    return entries


def _write_frame(
    folder: Path,
    clip: Clip,
    tracks: list[Track],
    frame: int,
    image: UInt8[np.ndarray, "h w 3"] | None,
) -> tuple[dict[int, FrameEntry], UInt8[np.ndarray, "h w 3"] | None]:
    """Writes the masks of one frame; returns its entries and, if given, the image painted."""
    ids, amodal = frame_masks(tracks, frame, clip.height, clip.width)
    stem = clip.stems[frame]
    write_ids(folder / "masks" / f"{stem}.png", ids)
    for id, mask in amodal.items():
        write_png(folder / "amodal" / str(id) / f"{stem}.png", mask * np.uint8(255))
    entries = track_entries(tracks, frame, stem, ids, amodal)
    return entries, None if image is None else paint_ids(image, ids)


def _without_repeats(clip: Clip, source: FlowEstimator | FlowFolder) -> tuple[Clip, list[int]]:
    """The clip less its repeated frames, and for each frame of `clip` its number there.

    A folder of flow belongs to all frames, so none is left out.
    """
    if isinstance(source, FlowFolder):
        return clip, list(range(clip.count))
    return clip.without_repeats(), clip.positions()


def describe_settings(
    segmenter: Segmenter, source: FlowEstimator | FlowFolder | None, refiners: Sequence[Refiner]
) -> dict[str, Any]:
    """What the result depends on, apart from the video; without an estimator, flow is of files."""
    info = segmenter.info
    return {
        "version": oclr_jax.__version__,
        "model": segmenter.model,
        "weights": info.name,
        "data_version": info.data_version,
        "flow": source.settings() if isinstance(source, FlowEstimator) else "folder",
        "gaps": list(info.model.gaps),
        "window": info.model.frames,
        "overlap": overlap_of(info.model),
        "precision": segmenter.precision,
        "passes": segmenter.passes,
        "order_from": (
            "occlusion" if orders_by_occlusion(segmenter, refiners) else info.model.order_from
        ),
        "join_parts": segmenter.join_parts,
        "grid": [info.model.height, info.model.width],
        "still_flow": STILL_FLOW,
        "min_link_iou": MIN_LINK_IOU,
        "min_area": MIN_AREA,
        "min_score": MIN_SCORE,
        "refiners": describe_refiners(refiners),
        "human_annotation": human_annotation(refiners, info),
    }


def _in_order(
    workers: ThreadPoolExecutor, function: Callable[..., Value], items: Iterable[tuple]
) -> Iterator[Value]:
    """Yields function(*item) for each item, in order; only a few are computed ahead."""
    waiting: deque = deque()
    for item in items:
        waiting.append(workers.submit(function, *item))
        if len(waiting) > _WRITERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

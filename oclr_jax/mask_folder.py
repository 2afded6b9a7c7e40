"""Masks of any program, as a folder of PNG files of object ids: refined, or scored by frame."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import oclr_jax
from oclr_jax.errors import UserError
from oclr_jax.files import staged_output, write_json
from oclr_jax.ops.metrics import present_ids
from oclr_jax.refine.appearance_models import load_appearance_model, visible_masks
from oclr_jax.refine.refiner import (
    RefinerVideo,
    describe_refiners,
    human_annotation,
    open_refiners,
    refine_tracks,
)
from oclr_jax.refine.select import judge_masks, select_frames, wrong_pixels
from oclr_jax.show.selection_sheet import SheetColumn, selection_sheet
from oclr_jax.tracks import StoredMask, Track, frame_masks
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.png import read_ids, write_ids, write_png

RECORD = "refinement.json"  # what the refined masks depend on
_BEST, _WORST = 5, 3  # columns of the picture


def refine_masks(
    video: str | os.PathLike,
    masks: str | os.PathLike,
    output: str | os.PathLike,
    refine: Sequence[str],
    refine_weights: str | os.PathLike | None = None,
    overwrite: bool = False,
    quiet: bool = True,
) -> int:
    """Refines masks, ids unchanged, and writes them to `output` in the same layout.

    Args:
      video: video file, or folder of frames.
      masks: folder of `<stem>.png`, indexed or grey, with object ids at the size of the video. A
        frame without a file has no objects.
      output: folder; one indexed PNG per frame of the video, and refinement.json.
      refine, refine_weights: as `open_refiners`.
      overwrite: replace results that `output` already holds.
      quiet: no progress bars.

    Returns:
      the number of objects.

    Raises:
      UserError: for anything that cannot be refined, and where `output` already holds results and
        `overwrite` is not set.
    """
    refiners = open_refiners(refine, refine_weights)
    clip = _one_shot(open_clip(video, quiet))
    names = [*(f"{stem}.png" for stem in clip.stems), RECORD]
    with staged_output(output, names, overwrite, (video, masks)) as folder:
        seen = RefinerVideo(clip, (), (clip.height, clip.width), quiet)
        tracks = refine_tracks(refiners, seen, read_tracks(seen, masks))
        for frame in progress(range(clip.count), "writing", clip.count, quiet):
            ids, _ = frame_masks(tracks, frame, clip.height, clip.width)
            write_ids(folder / f"{clip.stems[frame]}.png", ids)
        record = {
            "version": oclr_jax.__version__,
            "objects": [track.id for track in tracks],
            "refiners": describe_refiners(refiners),
            "human_annotation": human_annotation(refiners),
        }
        write_json(folder / RECORD, record)
    return len(tracks)


def select_masks(
    video: str | os.PathLike,
    masks: str | os.PathLike,
    sheet: str | os.PathLike,
    refine_weights: str | os.PathLike | None = None,
    quiet: bool = True,
) -> str:
    """Scores masks in every frame, and draws the best and the worst with their error maps.

    Args:
      video, masks, quiet: as `refine_masks`.
      sheet: PNG file to write.
      refine_weights: folder with the selector's weights; None for the default ones.

    Returns:
      a table: object, frame, predicted quality, and whether the mask is an exemplar.

    Raises:
      UserError: the masks or the weights cannot be read.
    """
    model = load_appearance_model("selector", refine_weights)
    clip = _one_shot(open_clip(video, quiet))
    seen = RefinerVideo(clip, (), (clip.height, clip.width), quiet)
    tracks = read_tracks(seen, masks)
    images, size = model.images(seen), (model.config.height, model.config.width)
    lines, rows = ["object  frame  quality  exemplar"], []
    for track in progress(tracks, "selecting", len(tracks), quiet):
        found = judge_masks(model, seen, tracks, track, clip.shots[0], with_errors=True)
        quality = {frame: value for frame, (value, _) in found.items()}
        exemplars = select_frames(quality, model.config.exemplars)
        lines += [
            f"{track.id:6d}  {clip.stems[frame]}  {value:.4f}{'  *' if frame in exemplars else ''}"
            for frame, value in quality.items()
        ]
        ranked = sorted(quality, key=lambda frame: -quality[frame])
        shown = ranked[:_BEST] + ranked[_BEST:][-_WORST:]
        column = [each.id for each in tracks].index(track.id)
        row = []
        for frame in shown:
            mask = visible_masks(tracks, frame, *size)[..., column]
            error = found[frame][1]
            wrong = np.zeros(size, np.float32) if error is None else wrong_pixels(error)
            row.append(SheetColumn(images[frame], mask, wrong))
        rows.append((track.id, row))
    write_png(sheet, selection_sheet(rows))
    return "\n".join(lines)


def read_tracks(video: RefinerVideo, folder: str | os.PathLike) -> list[Track]:
    """The objects of a folder of masks as tracks, in the order of their ids.

    Raises:
      UserError: there is no mask for any frame, a mask cannot be read or has another size than the
        video, or all masks are empty.
    """
    clip, tracks = video.clip, {}
    paths = [Path(folder) / f"{stem}.png" for stem in clip.stems]
    if not any(path.is_file() for path in paths):
        raise UserError(
            f"{os.fspath(folder)} has no mask for any frame of the video; it must have files such "
            f"as {paths[0].name}."
        )
    for frame, path in enumerate(paths):
        if not path.is_file():
            continue
        ids = read_ids(path)
        if ids.shape != (clip.height, clip.width):
            raise UserError(
                f"{path} is {ids.shape[1]}x{ids.shape[0]} and the video "
                f"{clip.width}x{clip.height}; masks must have the size of the video."
            )
        for id in present_ids(ids):
            mask = ids == id
            soft = mask.astype(np.float32)
            track = tracks.setdefault(id, Track(id=id, rank=0, shot=0))
            track.amodal[frame] = StoredMask.encode(mask, soft)
            track.amodal_probability[frame] = video.store_probability(soft)
    if not tracks:
        raise UserError(f"The masks in {os.fspath(folder)} are empty; there is nothing to refine.")
    return [replace(tracks[id], rank=rank) for rank, id in enumerate(sorted(tracks))]


def _one_shot(clip: Clip) -> Clip:
    """The same video as a single shot, because the ids of the masks hold for all of it."""
    return replace(clip, shots=[range(clip.count)])

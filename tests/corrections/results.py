"""Folders of results that no model made: two squares that cross, the frames of their video."""

from pathlib import Path

import numpy as np

from oclr_jax.files import write_json
from oclr_jax.results import (
    SCHEMA_VERSION,
    SegmentationRecord,
    VideoEntry,
    frame_entry,
    object_entry,
    source_from,
)
from oclr_jax.video.png import write_ids, write_png
from tests.clips import moving_clip, write_frames

HEIGHT, WIDTH = 40, 64


def square(left: int, top: int, side: int = 16) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def crossing(frames: int) -> dict[int, list[np.ndarray]]:
    """Full masks, front to back: 1 goes right, 2 goes left behind it, 3 stands behind both.

    3 is absent from the first two frames.
    """
    return {
        1: [square(8 + 4 * frame, 8) for frame in range(frames)],
        2: [square(36 - 4 * frame, 12) for frame in range(frames)],
        3: [square(24, 20) & (frame > 1) for frame in range(frames)],
    }


def visible(amodal: dict[int, np.ndarray]) -> np.ndarray:
    """Ids of one frame, from full masks front to back."""
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    for id, mask in amodal.items():
        ids[mask & (ids == 0)] = id
    return ids


def write_result(folder: Path, frames: int = 6, video: bool = True) -> Path:
    """Writes `clip`, a folder of frames, and `result` into a folder; gives the latter."""
    clip, result, masks = folder / "clip", folder / "result", crossing(frames)
    if video:
        write_frames(clip, moving_clip(frames, HEIGHT, WIDTH))
    entries = {id: [] for id in masks}
    for frame in range(frames):
        here = {id: mask[frame] for id, mask in masks.items() if mask[frame].any()}
        ids = visible(here)
        write_ids(result / "masks" / f"{frame}.png", ids)
        for id, mask in here.items():
            write_png(result / "amodal" / str(id) / f"{frame}.png", mask * np.uint8(255))
            score = 1 - id / 10
            entries[id].append(frame_entry(frame, str(frame), ids == id, mask, score))
    record = SegmentationRecord(
        schema_version=SCHEMA_VERSION,
        video=VideoEntry(
            name="clip",
            frames=frames,
            height=HEIGHT,
            width=WIDTH,
            fps=24.0,
            times=[round(frame / 24, 6) for frame in range(frames)],
            pixel_aspect=[1, 1],
            repeats=[],
            shots=[[0, frames - 1]],
            moves=True,
            source=source_from(result, clip),
        ),
        settings={"version": "test"},
        objects=[object_entry(id, id - 1, found) for id, found in entries.items()],
    )
    write_json(result / "objects.json", record)
    return result

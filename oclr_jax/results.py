"""What `oclr segment` leaves: the record of a video's objects, and its folder, whole or absent."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco

from oclr_jax.errors import UserError

SCHEMA_VERSION = 1
# What a folder of results may hold; nothing else in it is ever touched.
RESULTS = ("masks", "amodal", "objects.json", "overlay.mp4")


class RLE(TypedDict):
    """A binary mask in COCO's compressed run-length code."""

    size: list[int]  # [height, width]
    counts: str


class FrameEntry(TypedDict):
    """One object in one frame, at the input's resolution."""

    frame: int  # number in the video, from 0
    stem: str  # name of the frame's files, without suffix
    modal: RLE  # what is seen of the object
    amodal: RLE  # with what lies hidden behind other objects
    box: list[int]  # [x, y, width, height] of what is seen, in pixels; zeros where it is hidden
    area: int  # pixels that are seen
    score: float  # mean foreground probability inside the amodal mask, on the model's grid


class ObjectEntry(TypedDict):
    """One object of the video; frames in which it has no mask are left out."""

    id: int  # value of its pixels in masks/, name of its folder in amodal/
    depth_rank: int  # 0 in front
    first_frame: int
    last_frame: int
    score: float  # mean over its frames
    frames: list[FrameEntry]


class VideoEntry(TypedDict):
    """What was segmented."""

    name: str
    frames: int
    height: int
    width: int
    fps: float
    shots: list[list[int]]  # [first frame, last frame] of each
    moves: bool  # false where nothing in the video moves


class SegmentationRecord(TypedDict):
    """The content of objects.json."""

    schema_version: int
    video: VideoEntry
    settings: dict[str, Any]  # weights, flow and thresholds that were used
    objects: list[ObjectEntry]  # by id


def frame_entry(
    frame: int,
    stem: str,
    modal: Bool[np.ndarray, "h w"],
    amodal: Bool[np.ndarray, "h w"],
    score: float,
) -> FrameEntry:
    """Describes one object in one frame; the masks are kept as run-length codes only."""
    seen = encode_rle(modal)
    return FrameEntry(
        frame=frame,
        stem=stem,
        modal=seen,
        amodal=encode_rle(amodal),
        box=[int(number) for number in coco.toBbox(seen)],
        area=int(coco.area(seen)),
        score=round(score, 4),
    )


def object_entry(id: int, depth_rank: int, frames: list[FrameEntry]) -> ObjectEntry:
    """Describes one object from its frames, of which there is at least one, in their order."""
    return ObjectEntry(
        id=id,
        depth_rank=depth_rank,
        first_frame=frames[0]["frame"],
        last_frame=frames[-1]["frame"],
        score=round(sum(entry["score"] for entry in frames) / len(frames), 4),
        frames=frames,
    )


def encode_rle(mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]) -> RLE:
    """A binary mask as COCO's run-length code, its counts as text for JSON."""
    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return RLE(size=[int(side) for side in code["size"]], counts=code["counts"].decode("ascii"))


def check_output(
    output: str | os.PathLike, overwrite: bool = False, names: tuple[str, ...] = RESULTS
) -> None:
    """Raises UserError where `output` is no folder, or already holds any of `names`."""
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder for the results.")
    present = [name for name in names if (output / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"The folder {output} already has results ({', '.join(present)}); choose another one"
            + (" or add --overwrite." if names == RESULTS else ".")
        )


@contextmanager
def staged_results(output: str | os.PathLike, names: tuple[str, ...] = RESULTS) -> Iterator[Path]:
    """Gives a hidden folder beside `output`; what it holds moves there when the block succeeds.

    On any exception, Ctrl-C included, everything that was made is removed, folders above `output`
    too. Of what `output` holds only `names` are replaced, after all else is done. Raises UserError
    where the disk is full or the folder cannot be written.
    """
    output = Path(os.path.abspath(output))
    made = [folder for folder in output.parents if not folder.exists()]
    staged = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    try:
        staged.mkdir(parents=True)
        yield staged
        _publish(staged, output, names)
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)
        for folder in made:
            _remove_if_empty(folder)
        # The file writers' own UserErrors name the hidden folder, which is gone.
        cause = error.__cause__ if isinstance(error, UserError) else error
        if isinstance(cause, OSError):
            raise _write_error(cause, output) from error
        raise


def _publish(staged: Path, output: Path, names: tuple[str, ...]) -> None:
    if not output.exists():
        staged.rename(output)
        return
    old = staged / "old"
    old.mkdir()
    for name in names:
        if (output / name).exists():
            (output / name).rename(old / name)
    for name in names:
        if (staged / name).exists():
            (staged / name).rename(output / name)
    shutil.rmtree(staged)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _write_error(error: OSError, output: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk is full, so {output} was not written; free some space or choose another "
            "folder."
        )
    return UserError(f"Cannot write {output}: {error.strerror or error}; choose another folder.")

"""The record of a segmented video: what objects.json holds."""

from typing import Any, TypedDict

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco

SCHEMA_VERSION = 1
# Everything that `oclr segment` writes into its output folder, the record last; nothing else there
# is touched.
RESULT_NAMES = ("masks", "amodal", "overlay.mp4", "objects.json")


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
    fps: float  # mean frames per second
    times: list[float]  # of each frame, in seconds from the first
    pixel_aspect: list[int]  # width : height of a pixel
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

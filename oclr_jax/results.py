"""The record of a segmented video: the content of objects.json."""

import json
import os
import warnings
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import (
    Any,
    NotRequired,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco

from oclr_jax.errors import InputWarning, UserError
from oclr_jax.files import check_input
from oclr_jax.tracks import Track
from oclr_jax.video.clip import Clip
from oclr_jax.video.names import natural_sorted

# Since 2, amodal/<id> has no files of frames in which the object is absent, and refiners are
# recorded.
SCHEMA_VERSION = 2
# Everything that `oclr segment` writes into its output folder, the record last; nothing else there
# is touched.
RESULT_NAMES = ("masks", "amodal", "overlay.mp4", "exports", "objects.json")
_MASKS = ("modal", "amodal")


class RLE(TypedDict):
    """A binary mask in COCO's compressed run-length code."""

    size: list[int]  # [height, width]
    counts: str


class FrameEntry(TypedDict):
    """One object in one frame, at the input's resolution."""

    frame: int  # number in the video, from 0
    stem: str  # name of the frame's files, without suffix
    modal: RLE  # the visible part: a refiner's mask if there is one, else from the amodal masks
    amodal: RLE  # the visible part and what others in front hide, see `tracks.frame_masks`
    box: list[int]  # [x, y, width, height] of the modal mask, in pixels; zeros if it is empty
    area: int  # pixels of the modal mask
    score: float  # mean foreground probability inside the mask; see `Track.frame_score`


class ObjectEntry(TypedDict):
    """One object of the video; frames in which both of its masks are empty are left out."""

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
    repeats: list[list[int]]  # [frame, the earlier frame that it repeats and whose masks it has]
    shots: list[list[int]]  # [first frame, last frame] of each
    moves: bool  # false where nothing in the video moves
    source: NotRequired[str]  # path of the video, seen from the folder of objects.json


class SegmentationRecord(TypedDict):
    """The content of objects.json."""

    schema_version: int
    video: VideoEntry
    settings: dict[str, Any]  # weights, flow, thresholds and refiners that were used
    objects: list[ObjectEntry]  # by id


def track_entries(
    tracks: list[Track],
    frame: int,
    stem: str,
    ids: UInt8[np.ndarray, "h w"],
    amodal: dict[int, Bool[np.ndarray, "h w"]],
) -> dict[int, FrameEntry]:
    """Describes the objects of one frame by id, given the masks that `frame_masks` composed."""
    by_id = {track.id: track for track in tracks}
    return {
        id: frame_entry(frame, stem, ids == id, mask, by_id[id].frame_score(frame))
        for id, mask in amodal.items()
    }


def make_record(
    clip: Clip,
    settings: dict[str, Any],
    tracks: list[Track],
    entries: list[dict[int, FrameEntry]],
    moves: bool,
    source: str | None = None,
) -> SegmentationRecord:
    """Builds the content of objects.json from the entries of each frame by id.

    Objects that are in no frame are left out. `source` is where the video lies, see `source_from`.
    """
    objects = []
    for track in tracks:
        frames = [found[track.id] for found in entries if track.id in found]
        if frames:
            objects.append(object_entry(track.id, track.rank, frames))
    video = VideoEntry(
        name=clip.name,
        frames=clip.count,
        height=clip.height,
        width=clip.width,
        fps=float(clip.fps),
        times=[round(float(time), 6) for time in clip.times],
        pixel_aspect=list(clip.pixel_aspect.as_integer_ratio()),
        repeats=[list(pair) for pair in clip.repeats.items()],
        shots=[[shot.start, shot.stop - 1] for shot in clip.shots],
        moves=moves,
    )
    if source is not None:
        video["source"] = source
    return SegmentationRecord(
        schema_version=SCHEMA_VERSION, video=video, settings=settings, objects=objects
    )


def frame_entry(
    frame: int,
    stem: str,
    modal: Bool[np.ndarray, "h w"],
    amodal: Bool[np.ndarray, "h w"],
    score: float,
) -> FrameEntry:
    """Describes one object in one frame; of its masks only the run-length codes are kept."""
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
    """Describes one object from its frames in order, of which there is at least one."""
    return ObjectEntry(
        id=id,
        depth_rank=depth_rank,
        first_frame=frames[0]["frame"],
        last_frame=frames[-1]["frame"],
        score=round(sum(entry["score"] for entry in frames) / len(frames), 4),
        frames=frames,
    )


def encode_rle(mask: Bool[np.ndarray, "h w"] | UInt8[np.ndarray, "h w"]) -> RLE:
    """Encodes a binary mask as COCO's run-length code, with its counts as text for JSON."""
    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return RLE(size=[int(side) for side in code["size"]], counts=code["counts"].decode("ascii"))


def decode_rle(rle: RLE) -> Bool[np.ndarray, "h w"]:
    """Decodes COCO's run-length code.

    `pycocotools` does not notice a code that is too short, and fills the rest with whatever is in
    memory. Raises ValueError for a code that does not fill the mask.
    """
    height, width = rle["size"]
    bytes_ = np.frombuffer(rle["counts"].encode("ascii"), np.uint8).astype(np.int64) - 48
    if bytes_.size and (bytes_.min() < 0 or bytes_.max() > 63 or bytes_[-1] & 32):
        raise ValueError("not a run-length code")
    # Groups of 5 bits, the lowest first; bit 6 says that another one follows, and the highest bit
    # of the last group is the sign.
    ends = np.flatnonzero(~bytes_ & 32)
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    if ends.size and (ends - starts).max() > 11:
        raise ValueError("not a run-length code")
    place = 5 * (np.arange(bytes_.size) - np.repeat(starts, ends - starts + 1))
    counts = np.add.reduceat((bytes_ & 31) << place, starts) if ends.size else ends
    counts = counts - ((bytes_[ends] & 16) << 1 << place[ends])
    # From the fourth on, each count is the difference from the one before the last.
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    if (counts < 0).any() or int(counts.sum()) != height * width:
        raise ValueError(f"the run-length code does not fill {height}x{width} pixels")
    inside = np.arange(counts.size) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def source_from(output: str | os.PathLike, input: str | os.PathLike) -> str:
    """The path of a video seen from the folder of its results, so that both can move together."""
    return os.path.relpath(os.path.realpath(input), os.path.realpath(output))


def read_record(result: str | os.PathLike) -> SegmentationRecord:
    """Reads objects.json of a folder of results and checks it against the schema.

    The run-length codes are checked when they are decoded.

    Raises:
      UserError: there is none, it is broken, or another version of the schema.
    """
    path = Path(result) / "objects.json"
    if not path.is_file():
        raise UserError(
            f"{os.fspath(result)} holds no objects.json; give a folder that `oclr segment` wrote."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _broken(path, "it has no schema version") from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version} and {SCHEMA_VERSION} is needed; segment the "
            "video again."
        )
    try:
        _check_type(record, SegmentationRecord, "it")
        _check_numbers(record)
    except ValueError as error:
        raise _broken(path, str(error)) from error
    return record


def mask_stems(result: str | os.PathLike, record: SegmentationRecord) -> list[str]:
    """The name, without suffix, of each frame's files in a folder of results.

    Raises:
      UserError: the masks there are not those of the record.
    """
    folder = Path(result) / "masks"
    with warnings.catch_warnings():
        # That the order of names is ambiguous was said when the video was read.
        warnings.simplefilter("ignore", InputWarning)
        stems = [path.stem for path in natural_sorted(folder.glob("*.png"))]
    entries = [found for entry in record["objects"] for found in entry["frames"]]
    if len(stems) != record["video"]["frames"] or any(
        stems[found["frame"] : found["frame"] + 1] != [found["stem"]] for found in entries
    ):
        raise UserError(
            f"The files in {folder} are not those of objects.json beside them; segment the video "
            "again."
        )
    return stems


def find_video(
    result: str | os.PathLike,
    record: SegmentationRecord,
    video: str | os.PathLike | None = None,
) -> Path:
    """The video file or the folder of frames that results belong to; `video` is a user's choice.

    Raises:
      UserError: it is not where it was.
    """
    if video is not None:
        return check_input(video)
    source = record["video"].get("source")
    if source is None:
        raise UserError(f"The results in {os.fspath(result)} do not name their video; give it.")
    path = Path(os.path.normpath(Path(os.path.realpath(result)) / source))
    if not path.exists():
        raise UserError(f"The video {path} is no longer there; give the place it has moved to.")
    return path


def _broken(path: Path, reason: str) -> UserError:
    return UserError(f"{path} is no whole record of results: {reason}; segment the video again.")


def _check_type(value: Any, expected: Any, where: str) -> None:
    """Raises ValueError unless a JSON value has a type that is made of TypedDict, list, scalars."""
    if expected is Any:
        return
    if is_typeddict(expected):
        hints = _hints(expected)
        given = value if isinstance(value, dict) else {}
        lacking = sorted(expected.__required_keys__ - given.keys())
        if lacking:
            raise ValueError(f"{where} has no {', '.join(lacking)}")
        for name in hints.keys() & given.keys():
            _check_type(given[name], hints[name], name)
        return
    kind = get_origin(expected) or expected
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{where} is not of the type {kind.__name__}")
    if kind is list:
        for item in value:
            _check_type(item, get_args(expected)[0], where)


@lru_cache
def _hints(typed_dict: Any) -> dict[str, Any]:
    return get_type_hints(typed_dict)


def _check_numbers(record: SegmentationRecord) -> None:
    """Raises ValueError for numbers that no result has."""
    video, ids = record["video"], [entry["id"] for entry in record["objects"]]
    size = [video["height"], video["width"]]
    if min(*size, video["frames"], video["fps"], *video["pixel_aspect"]) <= 0:
        raise ValueError("a size or rate of the video is not above 0")
    if len(video["times"]) != video["frames"] or len(video["pixel_aspect"]) != 2:
        raise ValueError("video does not have one time for each frame")
    if len(set(ids)) < len(ids) or not all(0 < id < 256 for id in ids):
        raise ValueError("the ids of the objects are not different numbers from 1 to 255")
    for entry in record["objects"]:
        frames = [found["frame"] for found in entry["frames"]]
        rising = all(a < b for a, b in pairwise([-1, *frames, video["frames"]]))
        if not frames or not rising:
            raise ValueError(f"the frames of object {entry['id']} are not those of the video")
        if any(found[mask]["size"] != size for found in entry["frames"] for mask in _MASKS):
            raise ValueError(f"a mask of object {entry['id']} has not the size of the video")

"""The protocols: how predictions are matched to the ground truth, and what is measured then.

Every protocol turns predicted ids into ids of the ground truth. The metrics are the same for all.
Only annotated frames are considered here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float16, Float64, UInt8

from oclr_jax.datasets.benchmarks import MAX_PROPOSALS, VOID, Benchmark
from oclr_jax.errors import UserError
from oclr_jax.evaluate.truth import Truth
from oclr_jax.ops.boundary import boundary_f
from oclr_jax.ops.id_metrics import hota, id_switches, idf1, mask_overlaps
from oclr_jax.ops.metrics import (
    assign,
    border_share,
    box_iou,
    detected_box,
    jaccard,
    present_ids,
)

# Protocols that score windows of frames, as the model predicts them, or the masks of each flow. All
# others score tracks over the whole sequence, after the refiners.
_SCORED_ON = {
    "paper": "windows",
    "motion-grouping": "flows",
    "motion-grouping-single": "flows",
}
# An object that covers more of the image's border than this, on average, is background.
_BACKGROUND_BORDER = 0.5
# Of soft masks around which a box is drawn, in the evaluation of Motion Grouping on MoCA.
_BOX_THRESHOLD = 0.1


@dataclass(frozen=True)
class Prediction:
    """The predicted masks of a sequence."""

    # By window: frame numbers, and the id that is visible at each pixel. A later window replaces
    # the frames that it shares with the one before. Empty if no protocol needs windows.
    windows: list[tuple[list[int], UInt8[np.ndarray, "n h w"]]]
    # The same over the whole sequence, with ids that persist; None if no protocol needs them.
    tracks: UInt8[np.ndarray, "t h w"] | None
    foreground_only: bool  # whether every object is meant as foreground, as in masks of a folder
    # Soft masks of the slots for each flow; None if no protocol needs them.
    slots: Float16[np.ndarray, "t gaps grid_h grid_w k"] | None = None

    def at(self, frames: list[int]) -> "Prediction":
        """Restricts tracks and slots to the annotated frames."""
        tracks, slots = (None if x is None else x[frames] for x in (self.tracks, self.slots))
        return replace(self, tracks=tracks, slots=slots)


# By object and metric, one value for each scored frame.
Values = dict[str, dict[str, Float64[np.ndarray, "n"]]]


def scored_on(protocol: str) -> str:
    """What a protocol scores: "windows" or "flows", as the model predicts them, or "tracks"."""
    return _SCORED_ON.get(protocol, "tracks")


def on_windows(protocol: str) -> bool:
    """Whether a protocol scores windows."""
    return scored_on(protocol) == "windows"


def match(protocol: str, found: Prediction, truth: Truth) -> UInt8[np.ndarray, "t h w"]:
    """Ids of the ground truth, 0 for none, in every annotated frame, under the protocol.

    Raises UserError if the protocol does not apply to these predictions.
    """
    if on_windows(protocol):
        return _match_windows(found.windows, truth)
    if scored_on(protocol) == "flows":
        return match_slots(found.slots[:, :1] if "single" in protocol else found.slots, truth)
    tracks = found.tracks
    if protocol == "union":
        return (tracks > 0).astype(np.uint8)
    if protocol == "no-oracle":
        return np.isin(tracks, _foreground(tracks, found.foreground_only)).astype(np.uint8)
    if protocol == "sequence-oracle":
        proposals, objects = present_ids(tracks), truth.objects
        similarity = overlaps(tracks, proposals, truth.ids, objects).mean(axis=2)
        return _renamed(tracks, proposals, objects, similarity)
    return match_proposals(tracks, truth)


def frame_metrics(protocol: str, matched: UInt8[np.ndarray, "t h w"], truth: Truth) -> Values:
    """J and F of each object (by id) in the scored frames; on MoCA the IoU of boxes."""
    frames = truth.counted(protocol)
    if truth.boxes:
        boxes = truth.boxes[frames]
        pairs = zip(matched[frames], boxes, strict=True)
        found = [(detected_box(mask > 0), box.corners) for mask, box in pairs]
        values = [box_iou(one, other) if one else 0.0 for one, other in found]
        return {"1": {"J": np.array(values)}}
    matched, ids = matched[frames], truth.ids[frames]
    void = ids == VOID
    void = void if void.any() else None
    if protocol in ("union", "no-oracle") or scored_on(protocol) == "flows":
        pairs = {"all": (matched > 0, (ids > 0) & (ids != VOID))}
    else:
        pairs = {str(id): (matched == id, ids == id) for id in _scored(protocol, truth)}
    return {
        name: {"J": jaccard(*masks, void), "F": boundary_f(*masks, void)}
        for name, masks in pairs.items()
    }


def identity_metrics(
    protocol: str, found: Prediction, truth: Truth, benchmark: Benchmark
) -> dict[str, float]:
    """HOTA, IDF1 and id switches of a sequence with several objects; {} where ids do not count.

    They compare the tracks with the ground truth before any matching, in all annotated frames.
    """
    single = benchmark.single or truth.drop_ends or bool(truth.boxes)
    if single or scored_on(protocol) != "tracks" or protocol in ("union", "no-oracle"):
        return {}
    void = truth.ids == VOID
    tracks, ids = (np.where(void, np.uint8(0), x) for x in (found.tracks, truth.ids))
    table = mask_overlaps(ids, tracks)
    return {
        "HOTA": hota(table).hota,
        "IDF1": idf1(table),
        "id_switches": float(id_switches(table)),
    }


def _scored(protocol: str, truth: Truth) -> list[int]:
    if protocol == "davis-unsupervised" or (protocol == "paper" and truth.official):
        return _first_frame_objects(truth)
    return truth.objects


def _first_frame_objects(truth: Truth) -> list[int]:
    """The official evaluator's objects: all up to the largest id of the first annotated frame."""
    first = truth.ids[0]
    return list(range(1, int(first[first != VOID].max(initial=0)) + 1))


def _match_windows(windows: Iterable, truth: Truth) -> UInt8[np.ndarray, "t h w"]:
    """Matches the layers of each window to the ground truth on mean IoU (Hungarian).

    An object without a layer is empty in the whole window. On SegTrackv2 and FBMS-59 the published
    program joins all layers into one; on the multi-object benchmarks it passes its matched masks to
    the official evaluator, which matches them again.
    """
    matched = np.zeros_like(truth.ids)
    index_of = {frame: index for index, frame in enumerate(truth.frames)}
    objects = truth.objects
    for frames, ids in windows:
        shared = [(at, index_of[frame]) for at, frame in enumerate(frames) if frame in index_of]
        if not shared:
            continue
        at, index = (list(numbers) for numbers in zip(*shared, strict=True))
        if truth.grouped:
            matched[index] = ids[at] > 0
            continue
        here, present = ids[at], present_ids(ids[at])
        similarity = overlaps(here, present, truth.ids[index], objects).mean(axis=2)
        matched[index] = _renamed(here, present, objects, similarity)
    return match_proposals(matched, truth) if truth.official else matched


def match_proposals(tracks: UInt8[np.ndarray, "t h w"], truth: Truth) -> UInt8[np.ndarray, "t h w"]:
    """The official multi-object rule of DAVIS 2017: one assignment on mean J and F together.

    Proposals are all ids up to the largest, padded with empty ones to the number of objects. Raises
    UserError for more than 20.
    """
    objects = _first_frame_objects(truth)
    largest = int(tracks.max(initial=0))
    if largest > MAX_PROPOSALS:
        raise UserError(
            f"The masks hold an id of {largest} and the protocol davis-unsupervised takes at most "
            f"{MAX_PROPOSALS} proposals; leave some out."
        )
    proposals, void = list(range(1, max(largest, len(objects)) + 1)), truth.void
    j = overlaps(tracks, proposals, truth.ids, objects)
    f = np.zeros_like(j)
    for row, proposal in enumerate(proposals):
        for column, object in enumerate(objects):
            f[row, column] = boundary_f(tracks == proposal, truth.ids == object, void)
    similarity = (j.mean(axis=2) + f.mean(axis=2)) / 2
    return _renamed(tracks, proposals, objects, similarity)


def match_slots(
    slots: Float16[np.ndarray, "t gaps h w k"], truth: Truth
) -> UInt8[np.ndarray, "t H W"]:
    """The foreground as the evaluation of Motion Grouping takes it.

    Masks are brought to the size of the annotation by nearest neighbour. For every flow the slot of
    the highest IoU with the foreground is taken, and the soft masks of all flows are averaged. On
    MoCA the first slot is taken, inverted where it covers more than half of the image border.
    """
    height, width = truth.ids.shape[1:]
    rows = np.arange(height) * slots.shape[2] // height
    columns = np.arange(width) * slots.shape[3] // width
    matched = np.zeros_like(truth.ids)
    for frame, ids, flows in zip(matched, truth.ids, slots, strict=True):
        target, total = (ids > 0) & (ids != VOID), np.zeros((height, width), np.float32)
        for flow in flows:
            masks = flow[rows[:, None], columns].astype(np.float32)
            if truth.boxes:
                first = masks[..., 0]
                total += 1 - first if border_share(first > 0.5) > _BACKGROUND_BORDER else first
            else:
                iou = [jaccard(one > 0.5, target) for one in np.moveaxis(masks, -1, 0)]
                total += masks[..., int(np.argmax(iou))]
        frame[:] = total / len(flows) > (_BOX_THRESHOLD if truth.boxes else 0.5)
    return matched


def overlaps(
    found: UInt8[np.ndarray, "t h w"],
    proposals: list[int],
    truth: UInt8[np.ndarray, "t h w"],
    objects: list[int],
) -> Float64[np.ndarray, "n m t"]:
    """J of every proposal with every object in each frame, without the VOID pixels of the truth."""
    tables = np.zeros((len(proposals), len(objects), len(found)))
    for frame, (here, there) in enumerate(zip(found, truth, strict=True)):
        joint = np.bincount(
            here.ravel().astype(np.uint16) * np.uint16(256) + there.ravel(), minlength=256 * 256
        ).reshape(256, 256)
        joint[:, VOID] = 0
        both = joint[np.ix_(proposals, objects)]
        either = joint[proposals].sum(axis=1)[:, None] + joint[:, objects].sum(axis=0) - both
        tables[..., frame] = np.where(either == 0, 1.0, both / np.maximum(either, 1))
    return tables


def _foreground(tracks: UInt8[np.ndarray, "t h w"], foreground_only: bool) -> list[int]:
    """The ids that are foreground, chosen without the ground truth.

    An object that covers more than half of the image border, in the mean over its frames, is moving
    background, as in the MoCA evaluator. Masks from a folder are all foreground.
    """
    ids = present_ids(tracks)
    if foreground_only:
        return ids
    shares = {
        id: np.mean([border_share(frame == id) for frame in tracks if (frame == id).any()])
        for id in ids
    }
    return [id for id in ids if shares[id] <= _BACKGROUND_BORDER]


def _renamed(
    found: UInt8[np.ndarray, "t h w"],
    proposals: list[int],
    objects: list[int],
    similarity: Float64[np.ndarray, "n m"],
) -> UInt8[np.ndarray, "t h w"]:
    """Renames proposals to the objects that they match best, and drops the others."""
    names = np.zeros(256, np.uint8)
    for row, column in assign(similarity):
        names[proposals[row]] = objects[column]
    return names[found]

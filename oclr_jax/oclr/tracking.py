"""Tracking: from the model's layers in each window to objects with stable ids and a depth order."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from oclr_jax.oclr.depth import depth_order
from oclr_jax.oclr.reidentify import object_ids
from oclr_jax.oclr.split import split_merged
from oclr_jax.oclr.strands import Strand, WindowLayers, observe
from oclr_jax.ops.metrics import assign, jaccard
from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import StoredMask, StoredProbability, Track, compose_modal, modal_layers

# Layers of neighbouring windows are linked if the mean IoU of their amodal masks over the shared
# frames reaches this.
MIN_LINK_IOU = 0.3
# A track is kept if it is visible on at least this share of one frame ...
MIN_AREA = 0.001
# ... and if its score, the mean foreground probability inside its masks, reaches this.
MIN_SCORE = 0.6
# Masks on disk are 8-bit indexed images, whose 0 is the background.
MAX_OBJECTS = 255


class _Vote(NamedTuple):
    """The vote of one frame that strand `front` is in front of strand `back`; weight may be < 0."""

    front: int
    back: int
    weight: float


def link_windows(
    windows: Iterable[WindowLayers], probabilities: ArrayFile | None = None
) -> list[Track]:
    """Turns the layers of overlapping windows into objects with stable ids and one depth order.

    Layers of neighbouring windows of one shot are linked to strands by the mean IoU of their amodal
    and of their modal masks over the frames that they share (Hungarian; amodal at least
    MIN_LINK_IOU). Amodal masks alone would swap two layers that found the same object, one of which
    hides the other. Of the shared frames the earlier window keeps the first half, so that each mask
    was predicted with frames on both sides. `split_merged` then splits masks of two objects, and
    `object_ids` cuts the strands and joins the pieces to objects. The depth order of a pair is the
    majority vote of the frames in which both are, and the whole video has one order. Objects that
    are hardly ever visible, or of which the model is not sure, are dropped; at most MAX_OBJECTS
    stay, the largest.

    At most two windows are held at a time. Masks are stored compressed. The probabilities of the
    tracks are stored in the file `probabilities`, if one is given.
    """
    strands: list[Strand] = []
    votes: dict[int, list[_Vote]] = {}  # by frame
    previous: WindowLayers | None = None
    linked: list[int | None] = []  # for each layer of the previous window the index of its strand
    for window in windows:
        partners: list[int | None] = [None] * window.order.size
        first = window.start
        if previous is not None and previous.shot == window.shot:
            shared = previous.start + len(previous.probability) - window.start
            partners = continued_layers(previous, linked, window, shared)
            first = window.start + shared // 2
            for index in linked:
                if index is not None:
                    strands[index].forget(range(first, window.start + shared))
        linked = _store(strands, window, partners, first, probabilities)
        votes |= _votes(window, linked, first)
        previous = window
    split_merged(strands, probabilities)
    return _finish(*_objects(strands, votes))


def continued_layers(
    previous: WindowLayers, linked: list[int | None], window: WindowLayers, shared: int
) -> list[int | None]:
    """Returns for each layer of `window` what the layer of `previous` that it continues is called.

    Args:
      linked: the name of each layer of `previous`, None for those without.
      shared: frames that end `previous` and begin `window`.
    """
    ours = window.probability[:shared] > 0.5
    theirs = previous.probability[-shared:] > 0.5
    amodal = _agreement(theirs, ours)
    modal = _agreement(modal_layers(theirs, previous.order), modal_layers(ours, window.order))
    partners: list[int | None] = [None] * ours.shape[-1]
    for row, column in assign(amodal + modal):
        if amodal[row, column] >= MIN_LINK_IOU:
            partners[column] = linked[row]
    return partners


def _agreement(
    theirs: Bool[np.ndarray, "t h w k"], ours: Bool[np.ndarray, "t h w k"]
) -> Float[np.ndarray, "k k"]:
    """Returns the mean IoU of each pair of layers over the frames in which either is not empty."""
    table = np.zeros((theirs.shape[-1], ours.shape[-1]))
    for row, column in np.ndindex(*table.shape):
        a, b = theirs[..., row], ours[..., column]
        there = (a | b).any(axis=(1, 2))
        if there.any():
            table[row, column] = jaccard(a[there], b[there]).mean()
    return table


def _store(
    strands: list[Strand],
    window: WindowLayers,
    partners: list[int | None],
    first: int,
    probabilities: ArrayFile | None,
) -> list[int | None]:
    """Adds the window's masks from frame `first` on to their strands.

    Returns the index of each layer's strand, None for a layer that is empty in the whole window.
    """
    masks = window.probability > 0.5
    linked: list[int | None] = []
    for layer, index in enumerate(partners):
        if not masks[..., layer].any():
            linked.append(None)
            continue
        if index is None:
            index = len(strands)
            strands.append(Strand(window.shot))
        linked.append(index)
    for at in range(first - window.start, len(masks)):
        frame, seen = window.start + at, observe(window, at)
        for layer, index in enumerate(linked):
            if index is None:
                continue
            strand, probability = strands[index], window.probability[at, ..., layer]
            if seen[layer] is not None:
                strand.amodal[frame] = StoredMask.encode(masks[at, ..., layer], probability)
                strand.seen[frame] = seen[layer]
            if probabilities is not None:
                strand.probability[frame] = StoredProbability.encode(probability, probabilities)
    return linked


def _votes(window: WindowLayers, linked: list[int | None], first: int) -> dict[int, list[_Vote]]:
    """Returns the votes of each frame from `first` on.

    Frames in which two layers overlap have the most weight: the model learns the order of
    overlapping objects.
    """
    masks = window.probability > 0.5
    frames = range(first, window.start + len(masks))
    votes: dict[int, list[_Vote]] = {frame: [] for frame in frames}
    layers = [layer for layer, index in enumerate(linked) if index is not None]
    for a, b in combinations(layers, 2):
        sure = float(np.tanh((float(window.order[b]) - float(window.order[a])) / 2))
        overlap = (masks[..., a] & masks[..., b]).any(axis=(1, 2))
        for frame in frames:
            weight = sure * (1 / len(masks) + float(overlap[frame - window.start]))
            votes[frame].append(_Vote(linked[a], linked[b], weight))
    return votes


def _objects(
    strands: list[Strand], votes: dict[int, list[_Vote]]
) -> tuple[list[Track], dict[tuple[int, int], float]]:
    """Returns tracks made from strands, without depth, and the votes on each pair."""
    ids = object_ids(strands)
    tracks: dict[int, Track] = {}
    for strand, found in zip(strands, ids, strict=True):
        for frame, id in found.items():
            track = tracks.setdefault(id, Track(id, rank=0, shot=strand.shot))
            track.amodal[frame] = strand.amodal[frame]
    for strand, found in zip(strands, ids, strict=True):
        frames = sorted(found)
        for frame, probability in strand.probability.items():
            copied = frame in strand.amodal and frame not in found
            if frames and not copied:
                owner = tracks[found[_nearest(frames, frame)]]
                # Of two strands of an object the one with a mask counts, else the first.
                if frame in found or frame not in owner.amodal:
                    owner.amodal_probability.setdefault(frame, probability)
    table: dict[tuple[int, int], float] = defaultdict(float)
    frames_of = [sorted(found) for found in ids]
    for frame, cast in votes.items():
        for vote in cast:
            # Frames without an object count for that of the nearest frame of their strand.
            front, back = (
                ids[index][_nearest(frames_of[index], frame)] if ids[index] else None
                for index in (vote.front, vote.back)
            )
            if front is not None and back is not None and front != back:
                table[min(front, back), max(front, back)] += (
                    vote.weight if front < back else -vote.weight
                )
    return [tracks[id] for id in sorted(tracks)], table


def _nearest(frames: list[int], frame: int) -> int:
    """Returns the one of the increasing `frames` that is nearest to `frame`; of two, the first."""
    at = bisect_left(frames, frame)
    return min(frames[max(at - 1, 0) : at + 1], key=lambda other: abs(other - frame))


def _finish(tracks: list[Track], votes: dict[tuple[int, int], float]) -> list[Track]:
    """Drops tracks that are no objects and numbers the others by first frame and by depth."""
    order = depth_order([track.id for track in tracks], votes)
    visible = _largest_visible_share(tracks, order)
    kept = [t for t in tracks if visible[t.id] >= MIN_AREA and t.score >= MIN_SCORE]
    kept = sorted(kept, key=lambda track: (-visible[track.id], track.id))[:MAX_OBJECTS]
    rank = {id: i for i, id in enumerate(i for i in order if i in {t.id for t in kept})}
    kept.sort(key=lambda track: (min(track.amodal), track.id))
    return [
        replace(
            track,
            id=new,
            rank=rank[track.id],
            amodal=dict(sorted(track.amodal.items())),
            amodal_probability=dict(sorted(track.amodal_probability.items())),
        )
        for new, track in enumerate(kept, start=1)
    ]


def _largest_visible_share(tracks: list[Track], order: list[int]) -> dict[int, float]:
    """Returns for each id the largest share of a frame that its visible mask covers, 0 to 1."""
    by_id = {track.id: track for track in tracks}
    largest = dict.fromkeys(by_id, 0.0)
    for frame, present in _present_by_frame(tracks, order):
        modal = compose_modal([by_id[id].amodal[frame].decode() for id in present])
        for id, mask in zip(present, modal, strict=True):
            largest[id] = max(largest[id], float(mask.mean()))
    return largest


def _present_by_frame(tracks: list[Track], order: list[int]) -> Iterator[tuple[int, list[int]]]:
    """Yields each frame with objects and their ids, front to back."""
    place = {id: i for i, id in enumerate(order)}
    present = defaultdict(list)
    for track in sorted(tracks, key=lambda track: place[track.id]):
        for frame in track.amodal:
            present[frame].append(track.id)
    yield from sorted(present.items())

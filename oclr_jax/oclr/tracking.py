"""From layers per window to objects of a whole video: stable ids, one depth order."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from oclr_jax.ops.metrics import assign, jaccard
from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import StoredMask, StoredProbability, Track, compose_modal, modal_layers

# Two layers of neighbouring windows are one object where their amodal masks agree this well, as the
# mean IoU over the frames that the windows share.
MIN_LINK_IOU = 0.3
# An object counts where it is seen on at least this part of one frame ...
MIN_AREA = 0.001
# ... and where the model is this sure of its masks, as mean foreground probability inside them.
MIN_SCORE = 0.6
# Masks on disk are 8-bit indexed images, whose 0 is the background.
MAX_OBJECTS = 255


@dataclass(frozen=True)
class WindowLayers:
    """The model's answer for one window, at its own resolution."""

    shot: int  # windows of different shots never share objects
    start: int  # number of the window's first frame in the video
    probability: Float[np.ndarray, "t h w k"]  # amodal foreground
    order: Float[np.ndarray, "k"]  # pseudo-depth, lowest in front


def link_windows(
    windows: Iterable[WindowLayers], probabilities: ArrayFile | None = None
) -> list[Track]:
    """Joins the layers of overlapping windows into objects; one window is held at a time.

    Layers of neighbouring windows of one shot are matched on the mean IoU of their amodal and of
    their modal masks over the frames they share (Hungarian; amodal at least MIN_LINK_IOU): amodal
    masks alone would swap two layers that both found one object, of which one hides the other. A
    layer without a partner is a new object.
    Of shared frames the first half comes from the earlier window, the rest from the later one, so
    that each mask was seen with frames on both sides. Each pair's depth order is voted on by all
    windows, and the whole video gets one order, front to back. Objects that are hardly ever seen
    or that the model is not sure of are dropped; at most MAX_OBJECTS stay, the largest.
    The tracks' probabilities are stored in the file `probabilities`, if there is one.
    """
    tracks: list[Track] = []
    votes: dict[tuple[int, int], float] = defaultdict(float)
    previous: WindowLayers | None = None
    ids: list[int | None] = []
    for window in windows:
        partners = [None] * window.order.size
        first = window.start
        if previous is not None and previous.shot == window.shot:
            shared = previous.start + len(previous.probability) - window.start
            partners = _partners(previous, ids, window, shared)
            first = window.start + shared // 2
            for id in filter(None, ids):
                for frame in range(first, window.start + shared):
                    tracks[id - 1].amodal.pop(frame, None)
                    tracks[id - 1].amodal_probability.pop(frame, None)
        ids = _store(tracks, window, partners, first, probabilities)
        _vote(votes, ids, window)
        previous = window
    return _finish([track for track in tracks if track.amodal], votes)


def _partners(
    previous: WindowLayers, ids: list[int | None], window: WindowLayers, shared: int
) -> list[int | None]:
    """For each layer of `window`, the id of the earlier window's layer that is the same object."""
    ours = window.probability[:shared] > 0.5
    theirs = previous.probability[-shared:] > 0.5
    whole = _agreement(theirs, ours)
    seen = _agreement(modal_layers(theirs, previous.order), modal_layers(ours, window.order))
    partners: list[int | None] = [None] * ours.shape[-1]
    for row, column in assign(whole + seen):
        if whole[row, column] >= MIN_LINK_IOU:
            partners[column] = ids[row]
    return partners


def _agreement(
    theirs: Bool[np.ndarray, "t h w k"], ours: Bool[np.ndarray, "t h w k"]
) -> Float[np.ndarray, "k k"]:
    """Mean IoU of each of their layers with each of ours, over the frames in which either is."""
    table = np.zeros((theirs.shape[-1], ours.shape[-1]))
    for row, column in np.ndindex(*table.shape):
        a, b = theirs[..., row], ours[..., column]
        there = (a | b).any(axis=(1, 2))
        if there.any():
            table[row, column] = jaccard(a[there], b[there]).mean()
    return table


def _store(
    tracks: list[Track],
    window: WindowLayers,
    partners: list[int | None],
    first: int,
    probabilities: ArrayFile | None,
) -> list[int | None]:
    """Adds the window's masks from frame `first` on to their tracks; returns each layer's id."""
    ids: list[int | None] = []
    for layer, id in enumerate(partners):
        probability = window.probability[..., layer]
        masks = probability > 0.5
        if not masks.any():
            ids.append(None)
            continue
        if id is None:
            id = len(tracks) + 1
            tracks.append(Track(id=id, rank=0, shot=window.shot))
        for frame in range(first, window.start + len(masks)):
            mask = masks[frame - window.start]
            if mask.any():
                stored = StoredMask.encode(mask, probability[frame - window.start])
                tracks[id - 1].amodal[frame] = stored
            if probabilities is not None:
                soft = probability[frame - window.start]
                tracks[id - 1].amodal_probability[frame] = StoredProbability.encode(
                    soft, probabilities
                )
        ids.append(id)
    return ids


def _vote(votes: dict[tuple[int, int], float], ids: list[int | None], window: WindowLayers) -> None:
    """Adds the window's say on each pair: positive where the first id is in front.

    The model learns the order of overlapping objects, so frames with overlap weigh the most.
    """
    masks = window.probability > 0.5
    layers = [layer for layer, id in enumerate(ids) if id is not None]
    for a, b in combinations(layers, 2):
        weight = 1 + (masks[..., a] & masks[..., b]).any(axis=(1, 2)).sum()
        vote = weight * np.tanh((float(window.order[b]) - float(window.order[a])) / 2)
        low, high = sorted((ids[a], ids[b]))
        votes[low, high] += float(vote if ids[a] == low else -vote)


def depth_order(ids: Sequence[int], votes: dict[tuple[int, int], float]) -> list[int]:
    """Ids front to back: again and again the one that the fewest votes put behind the others left.

    Exact where the votes do not contradict each other, also for pairs that never met; ties go to
    the lower id.
    """
    behind: dict[int, dict[int, float]] = {id: {} for id in ids}
    for (low, high), vote in votes.items():
        if vote and low in behind and high in behind:
            front, back = (low, high) if vote > 0 else (high, low)
            behind[back][front] = abs(vote)
    in_front_of = defaultdict(list)
    for back, fronts in behind.items():
        for front in fronts:
            in_front_of[front].append(back)
    left, order = set(ids), []
    while left:
        nearest = min(left, key=lambda id: (sum(behind[id].values()), id))
        left.remove(nearest)
        order.append(nearest)
        for back in in_front_of[nearest]:
            behind[back].pop(nearest, None)
    return order


def _finish(tracks: list[Track], votes: dict[tuple[int, int], float]) -> list[Track]:
    """Drops what is no object, numbers the rest by appearance and by depth."""
    order = depth_order([track.id for track in tracks], votes)
    seen = _largest_seen_part(tracks, order)
    kept = [t for t in tracks if seen[t.id] >= MIN_AREA and t.score >= MIN_SCORE]
    kept = sorted(kept, key=lambda track: (-seen[track.id], track.id))[:MAX_OBJECTS]
    rank = {id: i for i, id in enumerate(i for i in order if i in {t.id for t in kept})}
    kept.sort(key=lambda track: (min(track.amodal), track.id))
    return [
        replace(track, id=new, rank=rank[track.id], amodal=dict(sorted(track.amodal.items())))
        for new, track in enumerate(kept, start=1)
    ]


def _largest_seen_part(tracks: list[Track], order: list[int]) -> dict[int, float]:
    """For each id the largest part of a frame that its visible mask covers, 0 to 1."""
    by_id = {track.id: track for track in tracks}
    largest = dict.fromkeys(by_id, 0.0)
    for ids in _present_by_frame(tracks, order):
        frame, present = ids
        modal = compose_modal([by_id[id].amodal[frame].decode() for id in present])
        for id, mask in zip(present, modal, strict=True):
            largest[id] = max(largest[id], float(mask.mean()))
    return largest


def _present_by_frame(tracks: list[Track], order: list[int]) -> Iterator[tuple[int, list[int]]]:
    """For each frame with objects its ids, front to back."""
    place = {id: i for i, id in enumerate(order)}
    present = defaultdict(list)
    for track in sorted(tracks, key=lambda track: place[track.id]):
        for frame in track.amodal:
            present[frame].append(track.id)
    yield from sorted(present.items())

"""Joins objects that are parts of one: they touch, and move alike throughout.

The flow model sometimes finds one thing as two layers, such as the neck and the body of a swan. Two
things touch for as long only where one moves in front of the other, and then they move differently.
Things that do move as one, such as a horse and its rider, are one moving object.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Bool

from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import StoredMask, StoredProbability, Track

# Two objects are parts of one if, of the frames of the one that has more, both are in at least this
# share, and in at least so many frames; ...
MIN_SHARED, MIN_FRAMES = 0.85, 8
# ... if their amodal masks overlap or adjoin in at least this share of the frames with both; ...
MIN_TOUCHING = 0.7
# ... and if their motions differ by at most this share of their lengths, camera motion left out.
MAX_DIFFERENCE = 0.1
# On 60 rendered clips and the 4 development sequences, with two sets of weights, this joins the two
# parts of the swan alone, whose motions differ by 0.04 and 0.06. Others that touch, and are in the
# same frames, differ by at least 0.11.

Motions = Mapping[int, Mapping[int, tuple[float, ...]]]  # by id and frame; see `Observation`
Votes = dict[tuple[int, int], float]  # by pair of ids; see `depth_order`


def join_parts(
    tracks: Sequence[Track], votes: Votes, motions: Motions, probabilities: ArrayFile | None = None
) -> tuple[list[Track], Votes]:
    """Joins objects that are parts of one; the lowest id of each stays.

    Args:
      tracks: by id, with amodal masks.
      votes: on the depth order of pairs.
      motions: of each object in its frames, in pixels of the flow, without the camera's motion;
        empty where it is not known.
      probabilities: the file of the tracks' probabilities, if they have any.

    Returns:
      the tracks and the votes, of the ids that stay.
    """
    into = {track.id: track.id for track in tracks}
    for one, other in combinations(tracks, 2):
        if one.shot == other.shot and _are_one(one, other, motions):
            target, source = sorted((into[one.id], into[other.id]))
            into = {id: target if root == source else root for id, root in into.items()}
    groups: dict[int, list[Track]] = defaultdict(list)
    for track in tracks:
        groups[into[track.id]].append(track)
    table: Votes = defaultdict(float)
    for (low, high), vote in votes.items():
        front, back = into.get(low, low), into.get(high, high)
        if front != back:
            table[min(front, back), max(front, back)] += vote if front < back else -vote
    return [_joined(group, probabilities) for group in groups.values()], dict(table)


def _are_one(one: Track, other: Track, motions: Motions) -> bool:
    most = max(len(one.amodal), len(other.amodal))
    if min(len(one.amodal), len(other.amodal)) < MIN_SHARED * most:
        return False
    shared = sorted(one.amodal.keys() & other.amodal.keys())
    pairs = ((motions[one.id].get(f), motions[other.id].get(f)) for f in shared)
    known = np.array([pair for pair in pairs if all(pair)])
    if len(known) < max(MIN_SHARED * most, MIN_FRAMES):
        return False
    lengths = np.linalg.norm(known, axis=-1).sum(axis=1)
    apart = np.linalg.norm(known[:, 0] - known[:, 1], axis=-1)
    if apart.mean() > MAX_DIFFERENCE * lengths.mean():
        return False
    touching = [_touch(one.amodal[f].decode(), other.amodal[f].decode()) for f in shared]
    return float(np.mean(touching)) >= MIN_TOUCHING


def _touch(one: Bool[np.ndarray, "h w"], other: Bool[np.ndarray, "h w"]) -> bool:
    """Whether a pixel of one mask is a pixel of the other, or one of its eight neighbours."""
    grown = cv2.dilate(one.astype(np.uint8), np.ones((3, 3), np.uint8))
    return bool((grown.astype(bool) & other).any())


def _joined(parts: Sequence[Track], probabilities: ArrayFile | None) -> Track:
    """The object that the parts are, under the id of the first."""
    first, *others = parts
    if not others:
        return first
    amodal: dict[int, StoredMask] = {}
    for frame in sorted(set().union(*(part.amodal for part in parts))):
        stored = [part.amodal[frame] for part in parts if frame in part.amodal]
        masks = np.stack([each.decode() for each in stored])
        areas = masks.sum(axis=(1, 2))
        score = float(np.average([each.score for each in stored], weights=areas))
        whole = masks.any(axis=0)
        amodal[frame] = StoredMask.encode(whole, np.full(whole.shape, score))
    soft: dict[int, StoredProbability] = {}
    for frame in sorted(set().union(*(part.amodal_probability for part in parts))):
        found = [p.amodal_probability[frame] for p in parts if frame in p.amodal_probability]
        highest = np.max([each.decode() for each in found], axis=0)
        soft[frame] = StoredProbability.encode(highest, probabilities)
    return replace(first, amodal=amodal, amodal_probability=soft)

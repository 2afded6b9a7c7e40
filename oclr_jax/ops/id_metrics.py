"""Measures of how well tracks keep their identity, by the definitions of TrackEval, in numpy.

Every measure takes `Overlaps`, the IoU of each true object with each track in every frame.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8
from scipy.optimize import linear_sum_assignment

# An object and a track match from this IoU on, for everything but HOTA.
MATCH_IOU = 0.5
# HOTA is the mean over these thresholds of the IoU.
HOTA_THRESHOLDS = np.arange(0.05, 0.99, 0.05)
_EPSILON = np.finfo(float).eps


class Overlaps(NamedTuple):
    """True objects n against tracks m in the frames t of one video.

    iou is 0 wherever one of the two is not present.
    """

    iou: Float64[np.ndarray, "t n m"]
    object_present: Bool[np.ndarray, "t n"]
    track_present: Bool[np.ndarray, "t m"]


class Hota(NamedTuple):
    """Means over `HOTA_THRESHOLDS`; hota is the geometric mean of the two at each threshold."""

    hota: float
    detection: float  # DetA
    association: float  # AssA


def mask_overlaps(
    truth: UInt8[np.ndarray, "t h w"], predicted: UInt8[np.ndarray, "t h w"]
) -> Overlaps:
    """Overlaps of two id maps, 0 for the background. Ids are taken in increasing order."""
    objects, tracks = (np.setdiff1d(np.unique(ids), 0) for ids in (truth, predicted))
    frames = len(truth)
    shared = np.zeros((frames, len(objects), len(tracks)))
    object_area, track_area = np.zeros((frames, len(objects))), np.zeros((frames, len(tracks)))
    for frame, (ours, theirs) in enumerate(zip(truth, predicted, strict=True)):
        pairs = ours.ravel() * np.uint16(256) + theirs.ravel()
        counts = np.bincount(pairs, minlength=256 * 256).reshape(256, 256)
        object_area[frame] = counts.sum(1)[objects]
        track_area[frame] = counts.sum(0)[tracks]
        shared[frame] = counts[np.ix_(objects, tracks)]
    joint = object_area[:, :, None] + track_area[:, None, :] - shared
    return Overlaps(shared / np.maximum(joint, 1), object_area > 0, track_area > 0)


def idf1(overlaps: Overlaps) -> float:
    """Share of the frames of objects and tracks that agree under the best one-to-one assignment of
    tracks to objects: 2 IDTP / (2 IDTP + IDFP + IDFN).

    0 where there are neither objects nor tracks. Ristani et al., "Performance Measures and a Data
    Set for Multi-Target, Multi-Camera Tracking", equation 7.
    """
    matches = (overlaps.iou >= MATCH_IOU).sum(0)
    # Each pair that is assigned adds its matches, and nothing forbids an assignment without any:
    # the optimum over all pairs is the same as over the table padded with "no partner".
    rows, columns = linear_sum_assignment(-matches)
    frames = overlaps.object_present.sum() + overlaps.track_present.sum()
    return float(2 * matches[rows, columns].sum() / max(frames, 1))


def id_switches(overlaps: Overlaps) -> int:
    """How often an object is matched by another track than when it was last matched.

    Matches prefer the track of the frame before. Bernardin and Stiefelhagen, "Evaluating Multiple
    Object Tracking Performance: The CLEAR MOT Metrics", section 2.1.
    """
    _, objects, tracks = overlaps.iou.shape
    last = np.full(objects, -1)  # track by which each object was last matched
    before = np.full(objects, -1)  # the same, in the previous frame alone
    switches = 0
    for iou, there, found in zip(*overlaps, strict=True):
        # As TrackEval has it, a frame without objects or without tracks is not a previous frame.
        if not there.any() or not found.any():
            continue
        keeps = before[:, None] == np.arange(tracks)
        score = np.where(iou >= MATCH_IOU - _EPSILON, 1000 * keeps + iou, 0)
        rows, columns = linear_sum_assignment(-score)
        matched = score[rows, columns] > _EPSILON
        rows, columns = rows[matched], columns[matched]
        switches += int(((last[rows] >= 0) & (last[rows] != columns)).sum())
        last[rows] = columns
        before[:] = -1
        before[rows] = columns
    return switches


def hota(overlaps: Overlaps) -> Hota:
    """Higher order tracking accuracy with its parts, 0 to 1.

    Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", section 4.
    Zeros where there are no objects or no tracks.
    """
    iou, object_present, track_present = overlaps
    if not object_present.any() or not track_present.any():
        return Hota(0.0, 0.0, 0.0)
    object_frames = object_present.sum(0)[:, None]
    track_frames = track_present.sum(0)[None, :]
    joint = iou.sum(2, keepdims=True) + iou.sum(1, keepdims=True) - iou
    agreement = np.divide(iou, joint, out=np.zeros_like(iou), where=joint > _EPSILON).sum(0)
    alignment = agreement / np.maximum(object_frames + track_frames - agreement, 1)
    matches = np.zeros((len(HOTA_THRESHOLDS), *agreement.shape))
    for frame in iou:
        rows, columns = linear_sum_assignment(-(alignment * frame))
        reached = frame[rows, columns] >= HOTA_THRESHOLDS[:, None] - _EPSILON
        matches[:, rows, columns] += reached
    hits = matches.sum((1, 2))
    detection = hits / np.maximum(object_frames.sum() + track_frames.sum() - hits, 1)
    shares = matches / np.maximum(object_frames + track_frames - matches, 1)
    association = (matches * shares).sum((1, 2)) / np.maximum(hits, 1)
    combined = np.sqrt(detection * association)
    return Hota(float(combined.mean()), float(detection.mean()), float(association.mean()))


def main_id_shares(overlaps: Overlaps) -> Float64[np.ndarray, "n"]:
    """For each object the share of the frames in which any track matches it that go to the track
    which matches it most often; NaN for an object that is never matched.
    """
    counts = _matched_frames(overlaps)
    total = counts.sum(1)
    return np.where(total > 0, counts.max(1, initial=0) / np.maximum(total, 1), np.nan)


def found_shares(overlaps: Overlaps) -> Float64[np.ndarray, "n"]:
    """For each object the share of its frames in which any track matches it; NaN if it has none."""
    total = overlaps.object_present.sum(0)
    return np.where(total > 0, _matched_frames(overlaps).sum(1) / np.maximum(total, 1), np.nan)


def _matched_frames(overlaps: Overlaps) -> Int[np.ndarray, "n m"]:
    """Frames in which each track is the one that matches each object: the one of largest IoU."""
    counts = np.zeros(overlaps.iou.shape[1:], np.int64)
    if not counts.size:
        return counts
    best = overlaps.iou.argmax(2)
    frames, objects = np.nonzero(overlaps.iou.max(2) >= MATCH_IOU)
    np.add.at(counts, (objects, best[frames, objects]), 1)
    return counts

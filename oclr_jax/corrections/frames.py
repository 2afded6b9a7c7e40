"""Corrections of one frame: its masks, and the scores of its objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from oclr_jax.corrections.operations import Operation, Order, Scene

Amodal = dict[int, Bool[np.ndarray, "h w"]]


@dataclass(frozen=True)
class Step:
    """A correction and the objects around it."""

    operation: Operation
    before: Scene
    after: Scene


def correct_masks(
    steps: Sequence[Step],
    frame: int,
    ids: UInt8[np.ndarray, "h w"],
    amodal: Mapping[int, Bool[np.ndarray, "h w"]],
) -> tuple[UInt8[np.ndarray, "h w"], dict[int, Bool[np.ndarray, "h w"]]]:
    """Replays corrections on the masks of one frame.

    Args:
      steps: the corrections in order.
      frame: number of the frame.
      ids: the object that is visible at each pixel, 0 for none.
      amodal: full masks by id, of the objects that have one here.

    Returns the corrected `ids` and `amodal`.
    """
    amodal = dict(amodal)
    for step in steps:
        if isinstance(step.operation, Order):
            ids = _reorder(step, ids, amodal)
        else:
            ids, amodal = _rename(step, frame, ids, amodal)
    return ids, amodal


def correct_scores(
    steps: Sequence[Step], frame: int, scores: Mapping[int, tuple[float, int]]
) -> dict[int, tuple[float, int]]:
    """Replays corrections on the (score, visible area in pixels) of the objects of one frame.

    The score of a merged object is the mean over its parts, weighted by area: the mean probability
    inside both masks. What an object gains or loses by another depth order leaves its score.
    """
    scores = dict(scores)
    for step in steps:
        merged: dict[int, tuple[float, int]] = {}
        for id, entry in scores.items():
            new = step.operation.rename(id, frame)
            if new is not None:
                merged[new] = _joined(merged[new], entry) if new in merged else entry
        scores = merged
    return scores


def _joined(one: tuple[float, int], other: tuple[float, int]) -> tuple[float, int]:
    area = one[1] + other[1]
    if not area:
        return (one[0] + other[0]) / 2, 0
    return (one[0] * one[1] + other[0] * other[1]) / area, area


def _rename(
    step: Step, frame: int, ids: UInt8[np.ndarray, "h w"], amodal: Amodal
) -> tuple[UInt8[np.ndarray, "h w"], Amodal]:
    table = np.arange(256, dtype=np.uint8)
    for id in step.before.order:
        table[id] = step.operation.rename(id, frame) or 0
    renamed = table[ids]
    kept: Amodal = {}
    for id, mask in amodal.items():
        new = int(table[id])
        if new:
            kept[new] = kept[new] | mask if new in kept else mask
    dropped = (ids != 0) & (renamed == 0)
    if dropped.any():
        for id in step.after.order:
            if id in kept:
                seen = dropped & kept[id]
                renamed[seen] = id
                dropped &= ~seen
    return renamed, kept


def _reorder(step: Step, ids: UInt8[np.ndarray, "h w"], amodal: Amodal) -> UInt8[np.ndarray, "h w"]:
    """Each pixel goes to the frontmost object that covers it and has passed its owner."""
    old = {id: place for place, id in enumerate(step.before.order)}
    new = {id: place for place, id in enumerate(step.after.order)}
    ordered, free = ids.copy(), np.ones(ids.shape, bool)
    for id in step.after.order:
        passed = [other for other in new if old[other] < old[id] and new[other] > new[id]]
        if passed and id in amodal:
            taken = free & amodal[id] & np.isin(ids, passed)
            ordered[taken] = id
            free &= ~taken
    return ordered

"""The frames of strands outside all pieces: where layers cover each other or change objects."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from oclr_jax.oclr.strands import Observation, Strand, colour_distance, mean_colours

# A layer shows an object that no other layer shows, if that object was seen at most _NEAR frames
# away, in reach, and with colours at most MAX_DISTANCE apart.
MAX_DISTANCE = 0.35
_NEAR = 15


@dataclass(frozen=True)
class _Rest:
    """Consecutive frames of a strand between its pieces of the objects `before` and `after`.

    `before` is None ahead of the first piece, `after` behind the last.
    """

    strand: int  # index of the strand
    before: int | None
    after: int | None
    frames: list[int]


@dataclass
class _Object:
    """An object as its pieces show it, and all frames in which it is known."""

    shot: int
    seen: dict[int, Observation] = field(default_factory=dict)
    frames: set[int] = field(default_factory=set)
    colours: Float[np.ndarray, " bins"] | None = None  # of its pieces


def fill(strands: Sequence[Strand], ids: list[dict[int, int]]) -> None:
    """Adds to `ids`, by strand and frame, the object of each frame that has none.

    Such frames follow the pieces of their strand before and after them. If another strand shows
    that object already, they are given to an object that is missing and looks like them, or else to
    a new object.
    """
    objects = _known_objects(strands, ids)
    rests = [rest for index, strand in enumerate(strands) for rest in _rests(index, strand, ids)]

    def evidence(rest: _Rest) -> float:
        return sum(strands[rest.strand].seen[frame].shown for frame in rest.frames)

    # The more of a layer can be seen, the earlier it chooses.
    for rest in sorted(rests, key=lambda rest: (-evidence(rest), rest.frames[0], rest.strand)):
        strand = strands[rest.strand]
        choice = dict(zip(rest.frames, _split(rest, strand, objects), strict=True))
        lost = [at for at, id in choice.items() if id is None or at in objects[id].frames]
        if lost:
            choice |= dict.fromkeys(lost, _missing_object(strand, lost, objects))
        for frame, id in choice.items():
            ids[rest.strand][frame] = id
            objects[id].frames.add(frame)


def _known_objects(strands: Sequence[Strand], ids: list[dict[int, int]]) -> dict[int, _Object]:
    objects: dict[int, _Object] = {}
    for strand, found in zip(strands, ids, strict=True):
        for frame, id in found.items():
            one = objects.setdefault(id, _Object(strand.shot))
            one.seen[frame] = strand.seen[frame]
            one.frames.add(frame)
    for one in objects.values():
        one.seen = dict(sorted(one.seen.items()))
        one.colours = mean_colours(list(one.seen.values()))
    return objects


def _rests(index: int, strand: Strand, ids: list[dict[int, int]]) -> Iterator[_Rest]:
    before, frames = None, []
    for frame in sorted(strand.seen):
        id = ids[index].get(frame)
        if id is None:
            frames.append(frame)
            continue
        if frames:
            yield _Rest(index, before, id, frames)
        before, frames = id, []
    if frames:
        yield _Rest(index, before, None, frames)


def _split(rest: _Rest, strand: Strand, objects: dict[int, _Object]) -> list[int | None]:
    """Returns the object in each frame: `before` up to the frame from which `after` fits better."""
    count = len(rest.frames)
    if rest.before is None or rest.after is None or rest.before == rest.after:
        return [rest.after if rest.before is None else rest.before] * count
    sums = []
    for id in (rest.before, rest.after):
        costs = []
        for frame in rest.frames:
            seen = strand.seen[frame]
            # The colours of a small part say little about the whole.
            cost = colour_distance(seen.colours, objects[id].colours) * seen.shown / seen.area
            costs.append(cost + (frame in objects[id].frames))
        sums.append(np.append(0.0, np.cumsum(costs)))
    before, after = sums
    at = int(np.argmin(before + after[-1] - after))
    return [rest.before] * at + [rest.after] * (count - at)


def _missing_object(strand: Strand, frames: list[int], objects: dict[int, _Object]) -> int:
    """Returns the object that is not known in these frames and fits them best, or a new one."""
    colours = mean_colours([strand.seen[frame] for frame in frames])
    best, least = None, MAX_DISTANCE
    for id, one in objects.items():
        if one.shot == strand.shot and one.frames.isdisjoint(frames) and one.colours is not None:
            distance = colour_distance(colours, one.colours)
            if distance < least and _is_in_reach(strand, frames, one):
                best, least = id, distance
    if best is None:
        best = max(objects, default=0) + 1
        objects[best] = _Object(strand.shot)
    return best


def _is_in_reach(strand: Strand, frames: list[int], one: _Object) -> bool:
    """Whether the object was seen near these frames, at a distance that it may have moved."""
    known = list(one.seen)
    for frame, at in ((frames[0], bisect_left(known, frames[0]) - 1),
                      (frames[-1], bisect_left(known, frames[-1]))):  # fmt: skip
        if 0 <= at < len(known) and abs(known[at] - frame) <= _NEAR:
            here, there, gap = strand.seen[frame], one.seen[known[at]], abs(known[at] - frame)
            distance = np.hypot(here.x - there.x, here.y - there.y)
            if distance <= 2 * (np.sqrt(max(here.area, there.area)) + gap):
                return True
    return False

"""The frames of strands outside all pieces: where layers cover each other or change objects."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from oclr_jax.oclr.strands import (
    MIN_COVER,
    MIN_PIECE,
    Observation,
    Strand,
    colour_distance,
    covered_share,
    mean_colours,
)

# A layer shows an object that no other layer shows, if that object was seen at most _NEAR frames
# away, in reach, and with colours at most MAX_DISTANCE apart.
MAX_DISTANCE = 0.35
_NEAR = 15
# The area of a hidden mask changes by at most this factor from one frame to the next.
MAX_GROWTH = 2.0


@dataclass(frozen=True)
class _Rest:
    """Frames of a strand between its pieces of the objects `before` and `after`.

    `before` is None ahead of the first piece, `after` behind the last, and both where it jumps.
    """

    strand: int  # index of the strand
    before: int | None
    after: int | None
    frames: list[int]
    whole: bool = False  # whether these are all frames of a strand without pieces


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
    a new object; see `_shows_more` for frames that stay without an object instead.
    """
    objects = _known_objects(strands, ids)
    owners = {(id, at): i for i, found in enumerate(ids) for at, id in found.items()}
    rests = [rest for index, strand in enumerate(strands) for rest in _rests(index, strand, ids)]

    def evidence(rest: _Rest) -> float:
        return sum(strands[rest.strand].seen[frame].shown for frame in rest.frames)

    # The more of a layer can be seen, the earlier it chooses.
    for rest in sorted(rests, key=lambda rest: (-evidence(rest), rest.frames[0], rest.strand)):
        strand = strands[rest.strand]
        choice = dict(zip(rest.frames, _split(rest, strand, objects), strict=True))
        lost = [at for at, id in choice.items() if id is None or at in objects[id].frames]
        if lost:
            found = _missing_object(strand, lost, objects)
            if found is None:
                found = max(objects, default=0) + 1
                objects[found] = _Object(strand.shot)
                known = {at: strands[owners[choice[at], at]] for at in lost if choice[at]}
                choice = {at: id for at, id in choice.items() if at not in lost}
                lost = _shows_more(rest, strand, lost, known)
            choice |= dict.fromkeys(lost, found)
        for frame, id in choice.items():
            ids[rest.strand][frame] = id
            objects[id].frames.add(frame)
            owners[id, frame] = rest.strand


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
    """Yields the frames outside pieces.

    Between pieces of one object they are that object. Else they follow a piece as long as the
    strand does not jump. A strand without pieces is not cut: it may show something that always
    moves by more than its size.
    """
    pieces, before, frames = ids[index], None, []
    for frame in [*sorted(strand.seen), None]:
        if frame is not None and frame not in pieces:
            frames.append(frame)
            continue
        after = None if frame is None else pieces[frame]
        if frames and (not pieces or before == after):
            yield _Rest(index, before, after, frames, whole=not pieces)
        elif frames:
            yield from _between_jumps(_Rest(index, before, after, frames), strand)
        before, frames = after, []


def _between_jumps(rest: _Rest, strand: Strand) -> Iterator[_Rest]:
    """Cuts a rest where its strand jumps."""
    parts = [[rest.frames[0]]]
    for frame in rest.frames[1:]:
        if _jumps(strand, parts[-1][-1], frame):
            parts.append([])
        parts[-1].append(frame)
    for number, frames in enumerate(parts):
        before = rest.before if number == 0 else None
        after = rest.after if number == len(parts) - 1 else None
        yield _Rest(rest.strand, before, after, frames)


def _jumps(strand: Strand, before: int, frame: int) -> bool:
    """Whether a strand jumps between two frames: in place or, as a guess behind others, in size."""
    one, other = strand.seen[before], strand.seen[frame]
    hidden = not (one.is_shown or other.is_shown)
    resized = max(one.area, other.area) > MAX_GROWTH * min(one.area, other.area)
    return (hidden and resized) or not strand.continues(before, frame)


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


def _shows_more(
    rest: _Rest, strand: Strand, frames: list[int], known: dict[int, Strand]
) -> list[int]:
    """Returns those of the frames in which the strand shows a new object.

    A layer that others cover shows what they show, or nothing. So does one that another layer
    covers which shows the strand's object (`known`, by frame). A few frames of a strand that shows
    known objects in its other frames are no object either, nor is a strand that is hardly shown.
    """

    def is_copy(frame: int) -> bool:
        if frame not in known:
            return False
        mask, cover = (one.amodal[frame].decode() for one in (strand, known[frame]))
        return covered_share(mask, cover) >= MIN_COVER

    shown = [at for at in frames if strand.seen[at].is_shown and not is_copy(at)]
    if rest.whole:
        return frames if 2 * len(shown) >= len(frames) else []
    return shown if len(shown) >= MIN_PIECE else []


def _missing_object(strand: Strand, frames: list[int], objects: dict[int, _Object]) -> int | None:
    """Returns the object that is not known in these frames and fits them best, if there is one."""
    colours = mean_colours([strand.seen[frame] for frame in frames])
    best, least = None, MAX_DISTANCE
    for id, one in objects.items():
        if one.shot == strand.shot and one.frames.isdisjoint(frames) and one.colours is not None:
            distance = colour_distance(colours, one.colours)
            if distance < least and _is_in_reach(strand, frames, one):
                best, least = id, distance
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

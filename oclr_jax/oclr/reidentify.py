"""Re-identification: which parts of which strands show the same object.

The model may move a layer from one object to another where two of them meet, and it loses objects
that are hidden, leave the frame, or stop. Strands are therefore cut into pieces, each of which
shows one object, and the pieces are joined by appearance and motion. All pieces of a video are
joined at once, as a path cover of minimum cost, so the result does not depend on the order of the
layers. `fill` adds the frames outside all pieces.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from oclr_jax.oclr.remaining import fill
from oclr_jax.oclr.strands import (
    MIN_COVER,
    MIN_PIECE,
    Observation,
    Strand,
    colour_distance,
    covered_share,
    mean_colours,
)

# A lost object is given up after this many frames.
MAX_GAP = 60
# Pieces of an object overlap by fewer frames than this, while one layer takes over from another.
MAX_OVERLAP = 6
# Pieces are joined if this costs less than MAX_COST. The cost is the distance of their colour
# histograms (0 to 1), plus MOTION_WEIGHT times the miss of the extrapolated motion (0 to 1), plus
# SIZE_WEIGHT times the change of size (0 to 1), plus GAP_WEIGHT times the share of MAX_GAP between
# them, minus SAME_STRAND if the model has them in one layer, one after the other.
MAX_COST = 0.5
MOTION_WEIGHT = 0.3
SIZE_WEIGHT = 0.1
GAP_WEIGHT = 0.1
SAME_STRAND = 0.25
# A piece has at least MIN_PIECE frames. In each of them the layer is shown, and the colour
# histograms of the _CHANGE_FRAMES frames before it and of those after it are less than MAX_CHANGE
# apart.
MAX_CHANGE = 0.3
_CHANGE_FRAMES = 5
# One frame is left out at both ends of a longer piece: where layers change objects, the pieces of
# an object would overlap in time otherwise.
_TRIMMED = 1
# Frames at either end of a piece from which its colours and size, and its velocity, are measured.
_END_FRAMES = 15
_VELOCITY_FRAMES = 6
# Motion is extrapolated over this many frames at most, because objects turn and stop.
_EXTRAPOLATED = 8


@dataclass(frozen=True)
class _End:
    """A piece near its first or its last frame."""

    position: Float[np.ndarray, "2"]  # in that frame, pixels of the model grid (x, y)
    velocity: Float[np.ndarray, "2"]  # pixels per frame
    area: float
    colours: Float[np.ndarray, " bins"]


@dataclass(frozen=True)
class _Piece:
    """Consecutive frames of a strand that show one object."""

    strand: int  # index of the strand
    shot: int
    frames: range
    head: _End
    tail: _End


def object_ids(strands: Sequence[Strand]) -> list[dict[int, int]]:
    """Returns for each strand the id of the object, from 1, that it shows in each of its frames.

    No two strands show the same object in the same frame.
    """
    pieces = [piece for index, strand in enumerate(strands) for piece in _cut(index, strand)]
    ids: list[dict[int, int]] = [{} for _ in strands]
    owners: dict[tuple[int, int], int] = {}  # by object and frame the strand that shows it best
    for piece, id in zip(pieces, _join(pieces, strands), strict=True):
        for frame in piece.frames:
            other = owners.get((id, frame))
            if other is not None:
                if strands[other].seen[frame].shown >= strands[piece.strand].seen[frame].shown:
                    continue
                del ids[other][frame]
            owners[id, frame] = piece.strand
            ids[piece.strand][frame] = id
    fill(strands, ids)
    # Ids are numbered by first frame, then by strand.
    first = sorted(
        (frame, index, id) for index, found in enumerate(ids) for frame, id in found.items()
    )
    number = {id: at for at, id in enumerate(dict.fromkeys(id for _, _, id in first), start=1)}
    return [{frame: number[id] for frame, id in found.items()} for found in ids]


def _cut(index: int, strand: Strand) -> Iterator[_Piece]:
    """Cuts a strand where other layers cover it, or it is absent, jumps or changes colour."""

    for run in _runs(strand, sorted(strand.seen), lambda frame: strand.seen[frame].is_shown):
        changes = dict(zip(run, _changes([strand.seen[frame] for frame in run]), strict=True))
        for frames in _runs(strand, run, lambda frame: changes[frame] < MAX_CHANGE):  # noqa: B023
            if len(frames) >= MIN_PIECE + 2 * _TRIMMED:
                frames = frames[_TRIMMED:-_TRIMMED]
            if len(frames) >= MIN_PIECE:
                seen = [strand.seen[frame] for frame in frames]
                head, tail = _end(seen, first=True), _end(seen, first=False)
                yield _Piece(index, strand.shot, range(frames[0], frames[-1] + 1), head, tail)


def _runs(strand: Strand, frames: list[int], keep: Callable[[int], bool]) -> Iterator[list[int]]:
    """Yields the longest runs of consecutive frames that are kept and do not jump."""
    run: list[int] = []
    for frame in frames:
        kept = keep(frame)
        if run and not (kept and frame == run[-1] + 1 and strand.continues(run[-1], frame)):
            yield run
            run = []
        if kept:
            run.append(frame)
    if run:
        yield run


def _changes(seen: list[Observation]) -> Float[np.ndarray, " t"]:
    """Returns the distance of the colours before each frame from those after it."""
    changes = np.zeros(len(seen))
    for at in range(1, len(seen) - 1):
        before, after = seen[max(at - _CHANGE_FRAMES, 0) : at], seen[at + 1 :][:_CHANGE_FRAMES]
        changes[at] = colour_distance(mean_colours(before), mean_colours(after))
    return changes


def _end(seen: list[Observation], first: bool) -> _End:
    near = seen[:_END_FRAMES] if first else seen[-_END_FRAMES:]
    last = near[0] if first else near[-1]
    path = near[:_VELOCITY_FRAMES] if first else near[-_VELOCITY_FRAMES:]
    steps = max(len(path) - 1, 1)
    velocity = np.array([path[-1].x - path[0].x, path[-1].y - path[0].y]) / steps
    area = float(np.mean([one.area for one in near]))
    return _End(np.array([last.x, last.y]), velocity, area, mean_colours(near))


def _join(pieces: list[_Piece], strands: Sequence[Strand]) -> list[int]:
    """Returns the object of each piece: the pieces of an object follow each other in time.

    Where they overlap by less than MAX_OVERLAP frames, one layer shows what the other shows. The
    costs of all joins and of all pieces without a successor, MAX_COST each, have the least sum.
    """
    if not pieces:
        return []
    count = len(pieces)
    starts = np.array([piece.frames.start for piece in pieces])
    lasts = np.array([piece.frames.stop - 1 for piece in pieces])
    gaps = starts[None, :] - lasts[:, None]
    later = (starts[:, None] < starts[None, :]) & (lasts[:, None] < lasts[None, :])
    # Column count + i stands for "piece i has no successor". The solver takes positive weights.
    joins = [(i, count + i, MAX_COST + 1.0) for i in range(count)]
    for i, j in np.argwhere(later & (gaps > -MAX_OVERLAP) & (gaps <= MAX_GAP)).tolist():
        cost = _join_cost(pieces[i], pieces[j], int(gaps[i, j]))
        if cost < MAX_COST and not _show_the_same(pieces[i], pieces[j], strands):
            continue
        # Pieces are listed by strand, those of a strand by time.
        if j == i + 1 and pieces[i].strand == pieces[j].strand:
            cost -= SAME_STRAND
        if cost < MAX_COST:
            joins.append((i, j, cost + 1.0))
    rows, columns, costs = zip(*joins, strict=True)
    table = coo_array((costs, (rows, columns)), shape=(count, 2 * count)).tocsr()
    successors = dict(zip(*min_weight_full_bipartite_matching(table), strict=True))
    ids = [0] * count
    for i in np.argsort(starts, kind="stable").tolist():
        ids[i] = ids[i] or max(ids) + 1
        if successors[i] < count:
            ids[successors[i]] = ids[i]
    return ids


def _show_the_same(one: _Piece, other: _Piece, strands: Sequence[Strand]) -> bool:
    """Whether one of the two masks covers the other in each frame that both pieces have.

    Those frames are no more than half of either piece, else the pieces show two objects.
    """
    frames = range(other.frames.start, one.frames.stop)
    if 2 * len(frames) > min(len(one.frames), len(other.frames)):
        return False
    masks = ([strands[piece.strand].amodal[frame].decode() for piece in (one, other)]
             for frame in frames)  # fmt: skip
    return all(max(covered_share(a, b), covered_share(b, a)) >= MIN_COVER for a, b in masks)


def _join_cost(one: _Piece, other: _Piece, gap: int) -> float:
    """Returns the cost of `other` being the object of `one`, `gap` frames later."""
    tail, head = one.tail, other.head
    if one.shot != other.shot:
        return np.inf
    # The better of both directions: objects may turn while they are not seen.
    way, ahead = head.position - tail.position, min(gap, _EXTRAPOLATED)
    miss = min(np.linalg.norm(way - ahead * end.velocity) for end in (tail, head))
    # An object moves by less than its own size in each frame; see `Strand.continues`.
    miss = float(miss / (2 * (np.sqrt(max(tail.area, head.area)) + max(gap, 0))))
    if miss > 1:
        return np.inf
    size = min(abs(float(np.log(tail.area / head.area))) / np.log(4), 1.0)
    cost = colour_distance(tail.colours, head.colours)
    return cost + MOTION_WEIGHT * miss + SIZE_WEIGHT * size + GAP_WEIGHT * max(gap, 0) / MAX_GAP

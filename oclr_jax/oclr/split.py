"""Splits masks that show two objects, where frames before or after show them in two layers.

Objects that move alike for a while are one layer in some windows and two in others. Where one
becomes two, or two become one, the masks on one side tell how to cut those on the other side: each
pixel of the common mask belongs to the nearer of the two masks of the neighbouring frame, moved as
the common mask moves, and so on from frame to frame.
"""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.ndimage import center_of_mass

from oclr_jax.oclr.strands import (
    MIN_COVER,
    MIN_PIECE,
    Observation,
    Strand,
    covered_share,
    mean_colours,
)
from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import StoredMask, StoredProbability

# Two layers show two objects if neither mask covers more than MAX_SHARED of the other, the one that
# comes or goes is shown in at least MIN_APART frames, and the two do not touch in every frame.
MAX_SHARED = 0.5
MIN_APART = 8
# Of a mask that shows both, each object has at least MIN_PART. It has at least MIN_KEPT of its area
# where the two are apart.
MIN_PART = 0.15
MIN_KEPT = 0.3


def split_merged(strands: Sequence[Strand], probabilities: ArrayFile | None = None) -> None:
    """Splits the masks of strands that show two objects.

    One object stays in its strand, the other extends the strand that shows it alone before or
    after. Probabilities are split in the same way; `probabilities` is the file that holds them.
    """
    present: dict[int, list[Strand]] = defaultdict(list)  # by frame the strands with a mask
    for strand in strands:
        for frame in strand.amodal:
            present[frame].append(strand)
    for step in (-1, 1):
        last = min if step < 0 else max
        ends = [(last(strand.amodal), strand) for strand in strands if strand.amodal]
        # What a strand gains can be split again, so the ends that are reached last go first.
        for end, strand in sorted(ends, key=lambda pair: step * pair[0]):
            if not _is_steady(strand, end, step):
                continue
            for other in present[end + step]:
                if _covers_both(other, strand, end, end + step) and _have_parted(other, strand):
                    _split(other, strand, end, step, present, probabilities)
                    break


def _is_steady(strand: Strand, end: int, step: int) -> bool:
    """Whether the strand is shown in the first or last MIN_APART of its frames."""
    frames = [end - step * number for number in range(MIN_APART)]
    return all(frame in strand.seen and strand.seen[frame].is_shown for frame in frames)


def _covers_both(common: Strand, strand: Strand, frame: int, after: int) -> bool:
    """Whether in `after` one strand shows what both show in the neighbouring `frame`."""
    if common.shot != strand.shot or frame not in common.amodal:
        return False
    own, other = common.amodal[frame].decode(), strand.amodal[frame].decode()
    both = common.amodal[after].decode()
    apart = max(covered_share(other, own), covered_share(own, other)) <= MAX_SHARED
    inside = min(covered_share(own, both), covered_share(other, both)) >= MIN_COVER
    least = min(np.count_nonzero(own), np.count_nonzero(other & ~own))
    return bool(apart and inside and least >= MIN_PART * np.count_nonzero(both))


def _have_parted(one: Strand, other: Strand) -> bool:
    """Whether there is background between two strands in a frame; parts of a body always touch."""
    for frame in one.amodal.keys() & other.amodal.keys():
        grown = cv2.dilate(one.amodal[frame].decode().astype(np.uint8), np.ones((3, 3), np.uint8))
        if not (grown.astype(bool) & other.amodal[frame].decode()).any():
            return True
    return False


def _split(
    common: Strand,
    strand: Strand,
    frame: int,
    step: int,
    present: dict[int, list[Strand]],
    probabilities: ArrayFile | None,
) -> None:
    """Splits the masks of `common` from the frame after `frame` on, as long as they show both."""
    own, other = common.amodal[frame].decode(), strand.amodal[frame].decode()
    least = [MIN_KEPT * np.count_nonzero(mask) for mask in (own, other & ~own)]
    known = [_seen_near(one, frame, -step) for one in (common, strand)]
    while (frame := frame + step) in common.amodal and frame not in strand.amodal:
        stored = common.amodal[frame]
        moved, both = own | other, stored.decode()
        if min(covered_share(own, both), covered_share(other, both)) < MIN_COVER:
            break
        shift = np.array(center_of_mass(both)) - center_of_mass(moved)
        nearer = _distance(_shifted(own, shift)) <= _distance(_shifted(other, shift))
        own, other = both & nearer, both & ~nearer
        if np.count_nonzero(own) < least[0] or np.count_nonzero(other) < least[1]:
            break
        covered = np.zeros_like(both)
        for one in present[frame]:
            if one is not common and one.seen[frame].is_shown:
                covered |= one.amodal[frame].decode()
        for one, mask, near in zip((common, strand), (own, other), known, strict=True):
            one.amodal[frame] = StoredMask.encode(mask, np.full(mask.shape, stored.score))
            one.seen[frame] = _observe_part(mask, mask & ~covered, near)
        present[frame].append(strand)
        if probabilities is not None:
            soft = common.probability[frame].decode()
            for one, lost in ((common, other), (strand, own)):
                one.probability[frame] = StoredProbability.encode(
                    np.where(lost, 1 - soft, soft), probabilities
                )


def _observe_part(
    mask: Bool[np.ndarray, "h w"], shown: Bool[np.ndarray, "h w"], near: list[Observation]
) -> Observation:
    """Returns what is observed of a part, whose colours are those of its object nearby."""
    rows, columns = np.nonzero(mask)
    return Observation(
        x=float(columns.mean()),
        y=float(rows.mean()),
        area=float(rows.size),
        shown=float(np.count_nonzero(shown)),
        colours=mean_colours(near).astype(np.float16),
    )


def _seen_near(strand: Strand, frame: int, step: int) -> list[Observation]:
    """Returns what is observed of a strand in a few frames from `frame` on."""
    frames = [frame + step * number for number in range(MIN_PIECE)]
    return [strand.seen[frame] for frame in frames if frame in strand.seen]


def _shifted(
    mask: Bool[np.ndarray, "h w"], shift: Float64[np.ndarray, "2"]
) -> Bool[np.ndarray, "h w"]:
    """Returns a mask moved by `shift` pixels (y, x), rounded."""
    rows, columns = np.nonzero(mask)
    moved = np.stack([rows, columns], 1) + np.rint(shift).astype(int)
    inside = ((moved >= 0) & (moved < mask.shape)).all(1)
    result = np.zeros_like(mask)
    result[tuple(moved[inside].T)] = True
    return result


def _distance(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Returns the distance of each pixel from a mask that is not empty."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

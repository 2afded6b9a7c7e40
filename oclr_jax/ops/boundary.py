"""The boundary metric F of DAVIS, computed on 64 pixels at a time.

Masks are cropped to their content and packed into 64-bit words, so one instruction processes 64
pixels. The result is bit-identical to that of the official evaluator.
"""

import math

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

# Matching distance of boundaries, as a fraction of the image diagonal.
TOLERANCE = 0.008
_WORD = 64
_FRAMES = 5  # processed together: for a single frame, call overhead dominates


def boundary_f(
    predicted: Bool[np.ndarray, "*n h w"],
    truth: Bool[np.ndarray, "*n h w"],
    void: Bool[np.ndarray, "*n h w"] | None = None,
) -> Float64[np.ndarray, "*n"]:
    """Boundary F of each frame, 0 to 1; 1 where neither mask has a boundary.

    The harmonic mean of boundary precision and recall. A boundary pixel counts as matched if the
    other mask has a boundary pixel within a disk of ceil(0.008 x diagonal) pixels. `void` pixels
    are removed from both masks first. Perazzi et al., "A Benchmark
    Dataset and Evaluation Methodology for Video Object Segmentation", section 4.
    """
    *batch, height, width = predicted.shape
    if void is not None:
        predicted, truth = predicted & ~void, truth & ~void
    radius = math.ceil(TOLERANCE * math.hypot(height, width))
    predicted = predicted.reshape(-1, height, width)
    truth = truth.reshape(-1, height, width)
    values = np.zeros(len(predicted))
    for start in range(0, len(predicted), _FRAMES):
        part = slice(start, start + _FRAMES)
        values[part] = _frames_f(predicted[part], truth[part], radius)
    return values.reshape(batch)


def _frames_f(
    predicted: Bool[np.ndarray, "n h w"], truth: Bool[np.ndarray, "n h w"], radius: int
) -> Float64[np.ndarray, "n"]:
    frames = len(predicted)
    boundaries = _boundaries(*_pack(np.concatenate([predicted, truth]), radius))
    # Rolled, so that each boundary meets the dilated boundary of its counterpart.
    near = np.roll(_dilate(boundaries, radius), frames, axis=0)
    counts = _counts(boundaries)
    shares = _counts(boundaries & near) / np.maximum(counts, 1)
    precision, recall = shares[:frames], shares[frames:]
    either = precision + recall
    f = np.where(either > 0, 2 * precision * recall / np.where(either > 0, either, 1.0), 0.0)
    one, other = counts[:frames], counts[frames:]
    return np.where((one > 0) & (other > 0), f, one == other)


def _pack(
    masks: Bool[np.ndarray, "m h w"], radius: int
) -> tuple[UInt64[np.ndarray, "m rows words"], bool, int | None]:
    """The masks as bits in a common crop; whether the crop has the image's last row; last column.

    Bit x of a row is column x of the crop. Every row ends in at least `radius` empty columns, so
    bits shifted out of a row do not enter the next one. The crop has an empty row below and an
    empty column to the right, where the image has them.
    """
    count, height, width = masks.shape
    words = -(-width // _WORD)
    packed = np.zeros((count, height, 8 * words), np.uint8)
    packed[..., : -(-width // 8)] = np.packbits(masks, axis=-1, bitorder="little")
    bits = packed.view("<u8").astype(np.uint64, copy=False)
    some = np.bitwise_or.reduce(bits, axis=0)
    rows = np.flatnonzero(np.bitwise_or.reduce(some, axis=1))
    columns = np.flatnonzero(np.bitwise_or.reduce(some, axis=0))
    if not rows.size:
        return np.zeros((count, 1, 1), np.uint64), False, None
    # A boundary reaches one pixel up and to the left of its mask.
    top, bottom = max(rows[0] - 1, 0), min(rows[-1] + 2, height)
    left, right = max(columns[0] - 1, 0), columns[-1] + 1
    crop = np.zeros((count, bottom - top, right - left + -(-radius // _WORD)), np.uint64)
    crop[..., : right - left] = bits[:, top:bottom, left:right]
    last = int(width - 1 - left * _WORD) if right == words else None
    return crop, bool(bottom == height), last


def _boundaries(
    masks: UInt64[np.ndarray, "m rows words"], last_row: bool, last_column: int | None
) -> UInt64[np.ndarray, "m rows words"]:
    """Pixels that differ from their right, lower or lower-right neighbour inside the image."""
    below = np.zeros_like(masks)
    below[:, :-1] = masks[:, 1:]
    if last_row:
        below[:, -1] = masks[:, -1]
    differs = masks ^ _next_column(masks)
    differs |= masks ^ _next_column(below)
    if last_column is not None:
        word, bit = divmod(last_column, _WORD)
        differs[..., word] &= np.uint64((1 << bit) - 1)
        differs[..., word + 1 :] = 0
    return differs | (masks ^ below)


def _next_column(bits: UInt64[np.ndarray, "m rows words"]) -> UInt64[np.ndarray, "m rows words"]:
    shifted = bits >> np.uint64(1)
    shifted[..., :-1] |= bits[..., 1:] << np.uint64(_WORD - 1)
    return shifted


def _dilate(
    bits: UInt64[np.ndarray, "m rows words"], radius: int
) -> UInt64[np.ndarray, "m rows words"]:
    """Dilation by a disk: all pixels at a distance of at most `radius` from a set bit.

    The disk is a union of horizontal runs, one per half width; the narrower a run, the further it
    extends vertically. Bits in the empty columns at the end of a row are undefined.
    """
    half_widths = [math.isqrt(radius**2 - rows**2) for rows in range(radius + 1)]
    runs, wide, half_width = {0: bits}, bits, 0
    for wanted in sorted(set(half_widths) - {0}):
        while half_width < wanted:
            step = min(wanted - half_width, 2 * half_width + 1)
            wide = _widen(wide, step)
            half_width += step
        runs[wanted] = wide
    disk, rows = runs[half_widths[radius]], radius
    for half_width in sorted(set(half_widths))[1:]:
        # The run of this half width spans the rows up to `tallest`. What has been built so far,
        # from narrower runs, spans the rows from `tallest` to `rows`.
        tallest = max(row for row in range(radius + 1) if half_widths[row] == half_width)
        disk = _heighten(disk, rows - tallest)
        disk |= runs[half_width]
        rows = tallest
    return _heighten(disk, rows)


def _heighten(
    bits: UInt64[np.ndarray, "m rows words"], reach: int
) -> UInt64[np.ndarray, "m rows words"]:
    """Vertical dilation by `reach` rows up and down."""
    reached = 0
    while reached < reach:
        step = min(reach - reached, 2 * reached + 1)
        taller = bits.copy()
        if step < bits.shape[1]:
            taller[:, step:] |= bits[:, :-step]
            taller[:, :-step] |= bits[:, step:]
        bits, reached = taller, reached + step
    return bits


def _widen(
    bits: UInt64[np.ndarray, "m rows words"], step: int
) -> UInt64[np.ndarray, "m rows words"]:
    """Every bit, together with the bits `step` columns to its left and right."""
    flat, here, over = bits.reshape(-1), np.uint64(step), np.uint64(_WORD - step)
    wider, part = flat << here, flat >> here
    wider |= part
    wider |= flat
    np.right_shift(flat, over, out=part)
    wider[1:] |= part[:-1]
    np.left_shift(flat, over, out=part)
    wider[:-1] |= part[1:]
    return wider.reshape(bits.shape)


def _counts(bits: UInt64[np.ndarray, "m rows words"]) -> Int64[np.ndarray, "m"]:
    return np.bitwise_count(bits).sum(axis=(1, 2), dtype=np.int64)

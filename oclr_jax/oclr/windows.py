"""Cutting sequences into windows of a fixed number of frames, as the model takes them."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def stream_windows(
    items: Iterable[Item], size: int, overlap: int = 0
) -> Iterator[tuple[int, list[Item]]]:
    """Yields (index of the first item, `size` items) windows that cover all items, in order.

    Neighbouring windows share `overlap` items; the last one is moved back to end with the last
    item, so it shares more. Fewer than `size` items are one window that repeats the last of them;
    no items are no window. Only `size` items are held.

    The rule of the published evaluation, which has overlap 0.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be at least 0 and below {size}, got {overlap}")
    held: deque[Item] = deque(maxlen=size)
    count = covered = 0
    for item in items:
        held.append(item)
        count += 1
        if count == size or (covered and count == covered + size - overlap):
            yield count - size, list(held)
            covered = count
    if 0 < count < size:
        yield 0, list(held) + [held[-1]] * (size - count)
    elif covered < count:
        yield count - size, list(held)


def frame_groups(count: int, size: int, overlap: int = 0) -> list[list[int]]:
    """The frame numbers of each window of a sequence of `count` frames; see `stream_windows`."""
    return [window for _, window in stream_windows(range(count), size, overlap)]

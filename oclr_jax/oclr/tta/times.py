"""Time that the parts of a computation take."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax


class PartTimes:
    """Seconds by part. Parts may be nested; the time of an inner one is not the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._nested = 0.0  # seconds of parts inside of the current one

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the part."""
        start, before = time.perf_counter(), self._nested
        self._nested = 0.0
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._nested
            self._nested = before + passed

    def stream(self, name: str, arrays: Iterable[Any]) -> Iterator[Any]:
        """Passes arrays on and adds the time until each is computed to the part."""
        arrays, end = iter(arrays), object()
        while True:
            with self.part(name):
                array = jax.block_until_ready(next(arrays, end))
            if array is end:
                return
            yield array

    def sentence(self, what: str, frames: int) -> str:
        """The seconds per frame, in all and by part."""
        parts = ", ".join(f"{name} {time / frames:.2f}" for name, time in self.seconds.items())
        return f"{what}: {sum(self.seconds.values()) / frames:.2f} s per frame ({parts})."

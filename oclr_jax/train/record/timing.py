"""Where the time of a training goes: phases, and the metrics between two rows of the journal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from oclr_jax.train.nonfinite import NonFiniteSteps
from oclr_jax.train.record.journal import Row

# Phases that are timed directly; compilation is the first step of a process, which waits for it.
TIMED = ("compile", "checkpoint", "evaluation")


class PhaseTimer:
    """Seconds spent on other things than steps, noted in the next row of the journal.

    So they add up over all processes that worked on a training, one after the other.
    """

    def __init__(self):
        self.pending = dict.fromkeys(TIMED, 0.0)

    @contextmanager
    def time(self, name: str, *, when: bool = True) -> Iterator[None]:
        """Adds the time inside the block to a phase."""
        began = time.monotonic()
        yield
        if when:
            self.pending[name] += time.monotonic() - began

    def take(self) -> dict[str, float]:
        """Seconds since the last row, for the next one."""
        values = {f"seconds_{name}": seconds for name, seconds in self.pending.items()}
        self.pending = dict.fromkeys(TIMED, 0.0)
        return values


def total_seconds(rows: list[Row], pending: dict[str, float]) -> dict[str, float]:
    """Seconds of each phase over a journal's rows, with those that no row has noted yet.

    A training row's `seconds` are those since the row before, without evaluations. "step" is what
    compilation, saving and waiting for data leave of them.
    """

    def total(name: str) -> float:
        return sum((row.get(name, 0.0) for row in rows if row["kind"] == "train"), 0.0)

    noted = {name: total(f"seconds_{name}") for name in TIMED}
    wait = total("seconds_data_wait")
    step = total("seconds") - wait - noted["compile"] - noted["checkpoint"]
    timed = {name: noted[name] + pending[name] for name in TIMED}
    return {"step": max(step, 0.0), "data wait": wait, **timed}


class MetricsWindow:
    """The steps since the last training row: their metrics, their time and the wait for data.

    Metrics are read from the device one step late, so that the device never waits for the host.
    """

    def __init__(self, nonfinite: NonFiniteSteps):
        self._nonfinite = nonfinite
        self._step, self._unchecked = 0, None
        self._clear()

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the time to get them counts as waiting for data."""
        while True:
            began = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._wait += time.monotonic() - began
            yield batch

    def add(self, step: int, metrics: dict) -> None:
        """Notes a step that was dispatched, and checks the one before."""
        self.check()
        self._step, self._unchecked = step, metrics

    def check(self) -> None:
        """Checks the newest step; raises UserError where it must end the training."""
        if self._unchecked is None:
            return
        metrics, self._unchecked = self._unchecked, None
        if self._nonfinite.check(self._step, float(metrics["loss"]), float(metrics["grad_norm"])):
            self._metrics.append(metrics)
        else:
            self._skipped += 1

    def take(self) -> dict[str, float]:
        """Means of the metrics and speeds since the last row, for the next one."""
        self.check()
        count = len(self._metrics) + self._skipped
        names = self._metrics[0] if self._metrics else ()
        values = {n: float(np.mean([m[n] for m in self._metrics])) for n in names}
        if self._skipped:
            values["skipped"] = self._skipped
        seconds = time.monotonic() - self._began
        values |= {"steps_per_s": count / seconds, "data_wait": self._wait / seconds}
        values |= {"seconds": seconds, "seconds_data_wait": self._wait}
        self._clear()
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside the block does not count."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def _clear(self) -> None:
        self._metrics, self._skipped, self._wait = [], 0, 0.0
        self._began = time.monotonic()

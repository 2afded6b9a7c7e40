"""Where the time of a training goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from oclr_jax.train.record.journal import Row

# Timed where they happen; compilation by the first step of a process, which waits for it.
TIMED = ("compile", "checkpoint", "evaluation")


class Phases:
    """Seconds spent on other things than steps, noted in the next row of the journal.

    So they add up over all processes that worked on a training, one after the other.
    """

    def __init__(self):
        self.pending = dict.fromkeys(TIMED, 0.0)

    @contextmanager
    def time(self, name: str, *, when: bool = True) -> Iterator[None]:
        """Adds what happens inside to a phase."""
        began = time.monotonic()
        yield
        if when:
            self.pending[name] += time.monotonic() - began

    def take(self) -> dict[str, float]:
        """What a row notes: seconds since the last one."""
        values = {f"seconds_{name}": seconds for name, seconds in self.pending.items()}
        self.pending = dict.fromkeys(TIMED, 0.0)
        return values


def total_seconds(rows: list[Row], pending: dict[str, float]) -> dict[str, float]:
    """Seconds of each phase over a journal's rows, with what no row has noted yet.

    A training row's `seconds` are those since the row before, evaluations left out; "step" is what
    compilation, saving and the wait for data leave of them.
    """

    def total(name: str) -> float:
        return sum((row.get(name, 0.0) for row in rows if row["kind"] == "train"), 0.0)

    noted = {name: total(f"seconds_{name}") for name in TIMED}
    wait = total("seconds_data_wait")
    step = total("seconds") - wait - noted["compile"] - noted["checkpoint"]
    timed = {name: noted[name] + pending[name] for name in TIMED}
    return {"step": max(step, 0.0), "data wait": wait, **timed}

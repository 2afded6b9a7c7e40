"""Ctrl-C and preemption: a training saves and ends, all its processes after the same step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Ends a training early and cleanly on Ctrl-C (SIGINT) or a preemption notice (SIGTERM).

    A second Ctrl-C interrupts at once, as usual. A second SIGTERM, which some schedulers send, has
    no effect. Of several processes one may get the signal, and all end after the same step: JAX's
    own handler of SIGTERM tells the others, and Ctrl-C is passed to it.

    signal: the number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None

    @property
    def may_interrupt(self) -> bool:
        """Whether an evaluation may end early. Several processes have not yet agreed to stop."""
        return self.signal is not None and jax.process_count() == 1

    def stops_after(self, step: int) -> bool:
        """Whether to save and end after this step; every process asks once for every step."""
        if jax.process_count() == 1:
            return self.signal is not None
        agreed = multihost_utils.reached_preemption_sync_point(step)
        if agreed and self.signal is None:
            self.signal = signal.SIGTERM
        return agreed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles signals inside the block. Only Python's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = [signal.SIGINT]
        if jax.process_count() == 1:
            handled.append(signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _) -> None:
        if self.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal = number
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\nStopping after this step{again}.\n".encode())
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

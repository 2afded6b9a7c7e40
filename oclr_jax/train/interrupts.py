"""Ctrl-C and preemption: a training saves and ends, all its processes after the same step."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


class Stop:
    """The wish to end a training early: Ctrl-C (SIGINT), or SIGTERM, which announces a preemption.

    A second Ctrl-C interrupts at once, as usual; a second SIGTERM, which some schedulers send, is
    nothing. Of several processes one may get the signal, and all end after the same step: JAX's
    own handler of SIGTERM tells the others, and Ctrl-C is handed to it.

    signal: the number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None

    @property
    def at_once(self) -> bool:
        """Whether what is not a step may be cut short; several processes have not yet agreed."""
        return self.signal is not None and jax.process_count() == 1

    def after(self, step: int) -> bool:
        """Whether to save and end after this step; every process asks once for every step."""
        if jax.process_count() == 1:
            return self.signal is not None
        agreed = multihost_utils.reached_preemption_sync_point(step)
        if agreed and self.signal is None:
            self.signal = signal.SIGTERM
        return agreed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are heard inside; only Python's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [signal.SIGINT]
        if jax.process_count() == 1:
            heard.append(signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in heard}
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

"""Signals that end a command: SIGTERM and SIGHUP clean up as Ctrl-C does."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived.

    A KeyboardInterrupt, so that whatever cleans up after Ctrl-C cleans up after these too.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextmanager
def termination_raises() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Terminated in the block.

    Only signals with the default action are caught: `nohup` keeps its meaning, and a program that
    embeds this one keeps its own handlers. Has no effect outside the main thread, where Python
    cannot install handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in caught:
        signal.signal(number, _raise_terminated)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Holds SIGINT, SIGTERM and SIGHUP back until the block has ended.

    For short blocks that must not be interrupted halfway. Only signals that have a Python handler
    are held; the first that arrived is raised again at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    handlers = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda number, _frame: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Gives the list of the signals SIGINT, SIGTERM and SIGHUP that have arrived in the block.

    The first one is only noted, for work that ends by itself; the next ones act as ever. Only
    signals that have a Python handler are noted.
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived
        return
    handlers = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(handler := signal.getsignal(number))
    }

    def note(number: int, frame) -> None:
        if arrived:
            handlers[number](number, frame)
        arrived.append(number)

    for number in handlers:
        signal.signal(number, note)
    try:
        yield arrived
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _raise_terminated(number: int, _frame) -> None:
    raise Terminated(number)

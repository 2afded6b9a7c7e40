"""How every command of this project ends: exit status, one sentence on errors, signals."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from oclr_jax.errors import NO_SPACE, InputWarning, UserError, describe_os_error
from oclr_jax.signals import Terminated, termination_raises

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
PIPE_CLOSED = 128 + signal.SIGPIPE

# Packages of the extras without which programs of launch/ do not start.
_EXTRAS = {
    "data": ("tensorflow_datasets", "grain", "array_record"),
    "beam": ("apache_beam",),
}


def run_command(
    name: str,
    command: Callable[[], None],
    interrupted: str = "interrupted; no partial results were left.",
) -> int:
    """Runs a command and returns its exit status.

    0: done. 2: an error that the user can correct, told in one sentence on standard error; 3 where
    other inputs of the command were processed. 130,
    143, 129: ended by Ctrl-C, SIGTERM or SIGHUP, after cleaning up. 141: standard output was closed
    by its reader. Any other exception is a bug and passes through.

    Args:
      name: of the command; starts every message.
      command: does the work; its return value is not used.
      interrupted: the message after a signal.
    """
    # A file name may hold bytes that are no text; printing it must not fail.
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")
    try:
        with termination_raises(), _warnings_in_one_line(name):
            command()
            print(end="", flush=True)
    except UserError as error:
        return _fail(name, str(error), error.exit_status)
    except BrokenPipeError:
        _discard_output()
        return PIPE_CLOSED
    except OSError as error:
        full = error.errno in NO_SPACE
        advice = "free some space" if full else "check the path and its permissions"
        return _fail(name, f"{describe_os_error(error)}; {advice}.")
    except UnicodeError as error:
        return _fail(name, f"a file name holds bytes that are no text ({error}); rename the file.")
    except KeyboardInterrupt as error:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return 128 + error.number if isinstance(error, Terminated) else INTERRUPTED
    return 0


def lacks_extra(name: str, extra: str) -> bool:
    """Whether a package of an extra is not installed; says so on standard error.

    For programs that cannot even be imported without it.

    Args:
      name: of the program; starts the message.
      extra: "data" or "beam".
    """
    if all(find_spec(package) for package in _EXTRAS[extra]):
        return False
    _fail(name, f"this needs the extra `{extra}`; run pip install '.[{extra}]' in the checkout.")
    return True


@contextmanager
def _warnings_in_one_line(name: str) -> Iterator[None]:
    """Prints every InputWarning as `name: warning: sentence`; other warnings as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        show = warnings.showwarning

        def show_in_one_line(message, category, *place, **more):
            if issubclass(category, InputWarning):
                print(f"{name}: warning: {message}", file=sys.stderr)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = show_in_one_line
        yield


def _fail(name: str, message: str, status: int = BAD_INPUT) -> int:
    try:
        print(end="", flush=True)
    except OSError:
        _discard_output()
    print(f"{name}: {message}", file=sys.stderr)
    return status


def _discard_output() -> None:
    """Sends what is still buffered nowhere, so that the interpreter's exit cannot fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())

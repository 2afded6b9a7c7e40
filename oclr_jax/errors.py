"""Errors that a user can cause, warnings, and the wording of operating-system errors."""

import errno
import os


class InputWarning(UserWarning):
    """Something about the input that the user should know although the work goes on.

    One sentence; the commands print it on standard error.
    """


class UserError(Exception):
    """An error that the user can correct: one sentence says what is wrong and what to do.

    The commands print the sentence on standard error and exit with its status, 2.
    """

    exit_status = 2


class SomeFailed(UserError):
    """Of several inputs some could not be processed; the others were. Exit status 3."""

    exit_status = 3


# A full disk, a used-up quota, a file above the size limit of the disk or the process.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def describe_os_error(error: OSError) -> str:
    """What the operating system refused, in words, with the file's name where it is known."""
    reason = os_error_reason(error)
    named = isinstance(error.filename, str | bytes)
    return f"{os.fsdecode(error.filename)}: {reason}" if named else reason


def os_error_reason(error: OSError) -> str:
    """What the operating system refused, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error) or type(error).__name__

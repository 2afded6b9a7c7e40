"""Data that does not stay in memory: a temporary file of arrays, and the user's cache folder."""

import os
import tempfile
import threading
import weakref
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from oclr_jax.errors import UserError


def cache_folder(name: str) -> Path:
    """The folder `name` in this program's cache, which XDG_CACHE_HOME moves; it may not exist."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "oclr_jax" / name


class ArrayFile:
    """A temporary file that arrays are appended to; safe to use from several threads.

    The file has no name, so that the system removes it however the process ends. It is closed with
    the last reference to it. Its folder is that of Python's `tempfile` (environment TMPDIR).
    """

    def __init__(self) -> None:
        """Raises UserError if the file cannot be created."""
        try:
            # Kept open as long as this object lives, beyond any one block.
            self._file = tempfile.TemporaryFile(prefix="oclr_")  # noqa: SIM115
        except OSError as error:
            raise _write_error(error) from error
        self._lock = threading.Lock()
        weakref.finalize(self, self._file.close)

    def append(self, array: np.ndarray) -> "StoredArray":
        """Writes an array to the end of the file. Raises UserError if the disk is full."""
        try:
            with self._lock:
                offset = self._file.seek(0, os.SEEK_END)
                self._file.write(np.ascontiguousarray(array).data)
        except OSError as error:
            raise _write_error(error) from error
        return StoredArray(self, offset, array.shape, array.dtype)

    def read(self, offset: int, length: int) -> bytes:
        """Reads bytes that were appended."""
        with self._lock:
            self._file.seek(offset)
            return self._file.read(length)


@dataclass(frozen=True)
class StoredArray:
    """One array in an ArrayFile, which it keeps open."""

    file: ArrayFile
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        """Reads the array."""
        data = self.file.read(self.offset, prod(self.shape) * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def _write_error(error: OSError) -> UserError:
    return UserError(
        f"Cannot write temporary data to {tempfile.gettempdir()}: {error.strerror or error}; free "
        "some space, or set the environment variable TMPDIR to another folder."
    )

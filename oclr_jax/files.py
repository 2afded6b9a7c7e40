"""Output that is written whole or not at all, and the checks of paths that users give.

Single files are written by `replacing`. A command that writes several results into a folder uses
`staged_output`, whose protocol survives a kill at any instant:

1. All work is done in `OUTPUT/.oclr-staging/new`. OUTPUT itself may therefore be a mount point, a
   link to another disk, or a writable folder inside a read-only one.
2. Old results move to `OUTPUT/.oclr-staging/old`, the record (the last name) first.
3. Commit: `.oclr-staging` is renamed to `.oclr-publishing`. This one rename is atomic.
4. New results move to OUTPUT, the record last, and `.oclr-publishing` is deleted with the old ones.

All moves are renames within one file system. Whoever finds `.oclr-staging` moves `old` back and
deletes the rest: the old results are whole. Whoever finds `.oclr-publishing` finishes step 4: the
new results are whole. A command that fails recovers itself; after one that was killed, the next
command that writes to OUTPUT recovers. OUTPUT is locked meanwhile, and the operating system drops
the lock of a killed process, so two commands never mistake each other's work for leftovers.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from etils import epath

from oclr_jax.errors import NO_SPACE, UserError, describe_os_error, os_error_reason
from oclr_jax.signals import deferred_signals

STAGING = ".oclr-staging"
PUBLISHING = ".oclr-publishing"
# Errors that only writing can cause; others may come from an input that is read meanwhile.
_WRITE_ERRORS = (*NO_SPACE, errno.EROFS)


class WriteError(UserError):
    """A file or folder could not be written. Its arguments can be sent between processes."""

    def __init__(self, path: str | os.PathLike, number: int | None, reason: str):
        super().__init__(path, number, reason)

    def __str__(self) -> str:
        path, number, reason = self.args
        space = "free some space or " if number in NO_SPACE else ""
        return f"Cannot write {os.fspath(path)}: {reason}; {space}choose another folder."


def check_input(path: str | os.PathLike) -> Path:
    """The path of a file or folder to read; UserError where there is none, saying what to give."""
    text = os.fspath(path)
    if not text:
        raise UserError("The path of the input is empty; give a file or folder.")
    if "://" in text:
        raise UserError(f"{text} is a URL; download it and give the local file.")
    path = Path(path)
    if path.is_file() or path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{text} is a pipe or a device; save it to a file and give that.")
    if re.search(r"[*?\[]|%\d*d", path.name):
        raise UserError(f"{text} is a pattern; give the folder of the frames, {path.parent}.")
    raise UserError(f"{text} does not exist; check the path.")


class OutputInUse(UserError):
    """Another command writes to the same folder."""


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is renamed to `path`, else removed.

    The temporary name keeps the suffix, because encoders choose their format by it. It depends on
    `path` alone: what a killed process left is reused by the next one that writes the same file.
    Missing parent folders are made. Raises UserError where the file cannot be written; every other
    exception passes through.

    For a path in a bucket (`gs://`) the temporary file is a local one, which is uploaded: there a
    file is whole or absent anyway.
    """
    if "://" in os.fspath(path):
        with _uploaded(epath.Path(path)) as temporary:
            yield temporary
        return
    path = Path(path)
    if not path.name or path.is_dir():
        raise UserError(f"Cannot write {str(path)!r}: it is a folder; give the name of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_file(path) as temporary:
            yield temporary
            os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or _is_write_error(error, path.parent):
            raise WriteError(path, error.errno, os_error_reason(error)) from error
        raise


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Writes JSON in UTF-8, whole or not at all.

    Bytes of file names that are no text are written as the escapes that Python's `json` reads back
    to the same name.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    with replacing(path) as temporary:
        # The backslash escape of a lone surrogate is its JSON escape too.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, locked while the block runs and removed at its end."""
    key = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(f".oclr-{key}{path.suffix}")
    descriptor = _open_locked(temporary)
    if descriptor is None:
        # Another thread or process writes the same file now, or left one that is not ours.
        temporary = path.with_name(f".oclr-{uuid.uuid4().hex[:16]}{path.suffix}")
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()
        os.close(descriptor)


def _open_locked(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return None
    if _lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


@contextmanager
def _uploaded(path: epath.Path) -> Iterator[Path]:
    try:
        with TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            path.write_bytes(temporary.read_bytes())
    except OSError as error:
        raise UserError(
            f"Cannot write {os.fspath(path)}: {describe_os_error(error)}; check the permissions of "
            "the bucket or choose another folder."
        ) from error


@contextmanager
def locked_output(output: str | os.PathLike) -> Iterator[Path]:
    """Makes the folder `output` where it is missing, and locks it; gives its path without links.

    On any exception the folders that were made are removed again where they are empty. Raises
    UserError where `output` is no folder, cannot be written, or is in use by another command.
    """
    folder = _output_folder(output)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"The folder {output} cannot be written; choose another one.")
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if not _lock(descriptor):
                raise OutputInUse(
                    f"Another command is writing to {output}; wait for it or choose another folder."
                )
            yield folder
        finally:
            os.close(descriptor)
    except BaseException as error:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError) and _is_write_error(error, folder):
            raise WriteError(output, error.errno, os_error_reason(error)) from error
        raise


@contextmanager
def staged_output(
    output: str | os.PathLike,
    names: Sequence[str],
    overwrite: bool | None = None,
    inputs: Iterable[str | os.PathLike | None] = (),
) -> Iterator[Path]:
    """Gives an empty folder; its content becomes that of `output` when the block succeeds.

    See the top of this file for the protocol. On any exception, Ctrl-C included, everything that
    was made is removed, folders above `output` too. Of what `output` holds only `names` are
    replaced, after all else is done.

    Args:
      output: folder of the results.
      names: files and folders that the command writes; the last is the record that describes the
        others, which is present only while they are complete.
      overwrite: whether results may be replaced; None where the command has no such option.
      inputs: what the command reads; None and what is no path are passed over.

    Raises:
      UserError: where `output` already has results and not `overwrite`, where an input lies inside
        the results that would be replaced, and where `output` cannot be written.
    """
    with locked_output(output) as folder:
        _recover(folder, names)
        _check_inputs(folder, names, inputs)
        _check_results(output, folder, names, overwrite)
        try:
            for part in ("old", "new"):
                (folder / STAGING / part).mkdir(parents=True)
            yield folder / STAGING / "new"
            with deferred_signals():
                _publish(folder, names)
        except BaseException as error:
            with deferred_signals():
                _recover(folder, names)
            if isinstance(error, WriteError):  # names a file of the staging folder
                raise WriteError(output, *error.args[1:]) from error
            raise


def _output_folder(output: str | os.PathLike) -> Path:
    text = os.fspath(output)
    if not text:
        raise UserError("The path of the output is empty; give a folder for the results.")
    if "://" in text:
        raise UserError(f"{text} is not on this machine; give a local folder for the results.")
    folder = Path(os.path.realpath(output))
    if folder == Path(folder.root):
        raise UserError(f"{text} is the root of the file system; give a folder for the results.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{text} is a file; give a folder for the results.")
    return folder


def _check_results(
    output: str | os.PathLike, folder: Path, names: Sequence[str], overwrite: bool | None
) -> None:
    present = [name for name in names if os.path.lexists(folder / name)]
    if present and not overwrite:
        raise UserError(
            f"The folder {os.fspath(output)} already has results ({', '.join(present)}); choose "
            "another one" + ("." if overwrite is None else " or add --overwrite.")
        )
    for name in present:
        path = folder / name
        if os.path.ismount(path) or (path.is_dir() and not os.access(path, os.W_OK | os.X_OK)):
            raise UserError(f"{path} cannot be replaced; choose another output folder.")


def _check_inputs(
    folder: Path, names: Sequence[str], inputs: Iterable[str | os.PathLike | None]
) -> None:
    results = [path for path in (folder / name for name in names) if path.exists()]
    for given in filter(None, inputs):
        path = os.fspath(given)
        if not os.path.exists(path):
            path = path.partition(":")[2]  # raft:FILE
        if not os.path.exists(path):
            continue
        path = Path(os.path.realpath(path))
        for result in results:
            if any(os.path.samefile(result, above) for above in (path, *path.parents)):
                raise UserError(
                    f"{os.fspath(given)} is read, and lies in {result}, which would be replaced; "
                    "choose another output folder."
                )


def _publish(folder: Path, names: Sequence[str]) -> None:
    """Steps 2 to 4."""
    for name in reversed(names):
        if os.path.lexists(folder / name):
            os.rename(folder / name, folder / STAGING / "old" / name)
    os.rename(folder / STAGING, folder / PUBLISHING)
    _recover(folder, names)


def _recover(folder: Path, names: Sequence[str]) -> None:
    """Brings back the old results, or the new ones once they are committed; leaves nothing else."""
    for marker, part in ((STAGING, "old"), (PUBLISHING, "new")):
        source = folder / marker / part
        if source.is_dir():
            found = os.listdir(source)
            for name in sorted(found, key=lambda name: names.index(name) if name in names else -1):
                os.rename(source / name, folder / name)
        shutil.rmtree(folder / marker, ignore_errors=True)


def _lock(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed; False where another process has it.

    True, without a lock, on file systems that have none.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _is_write_error(error: OSError, folder: Path) -> bool:
    """Whether the error is about the output folder, not about an input that was read meanwhile."""
    if error.errno in _WRITE_ERRORS:
        return True
    if not isinstance(error.filename, str | bytes):
        return False
    path, folder = os.path.realpath(os.fsdecode(error.filename)), os.path.realpath(folder)
    return os.path.commonpath([path, folder]) in (path, folder)

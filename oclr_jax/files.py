"""Atomic output: a file or a folder of results is written whole, or not at all."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from etils import epath

from oclr_jax.errors import UserError


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; on success it is renamed to `path`, else removed.

    The temporary name keeps the suffix, because encoders choose their format by it. Missing
    parent folders are made. An error of the file system (full disk, no permission) becomes a
    UserError; every other exception passes through.

    For a path in a bucket (`gs://`) the temporary file is a local one, which is uploaded: there a
    file is whole or absent anyway.
    """
    if "://" in os.fspath(path):
        with _uploaded(epath.Path(path)) as temporary:
            yield temporary
        return
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}; free some space or choose another "
            "folder."
        ) from error
    finally:
        # Where the folder itself could not be made or is gone, there is nothing to clean up.
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _uploaded(path: epath.Path) -> Iterator[Path]:
    try:
        with TemporaryDirectory() as folder:
            temporary = Path(folder) / path.name
            yield temporary
            path.write_bytes(temporary.read_bytes())
    except OSError as error:
        raise UserError(
            f"Cannot write {os.fspath(path)}: {error.strerror or error}; see that you may write to "
            "that bucket, or choose another folder."
        ) from error


def check_output(
    output: str | os.PathLike, names: tuple[str, ...], overwrite: bool | None = None
) -> None:
    """Raises UserError where `output` is a file, or already holds any of `names`.

    overwrite: None where the command has no option to replace results.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder for the results.")
    present = [name for name in names if (output / name).exists()]
    if present and not overwrite:
        raise UserError(
            f"The folder {output} already has results ({', '.join(present)}); choose another one"
            + ("." if overwrite is None else " or add --overwrite.")
        )


@contextmanager
def staged_output(output: str | os.PathLike, names: tuple[str, ...]) -> Iterator[Path]:
    """Gives a hidden folder beside `output`; what it holds moves there when the block succeeds.

    On any exception, Ctrl-C included, everything that was made is removed, folders above `output`
    too. Of what `output` holds only `names` are replaced, after all else is done. Raises UserError
    where the disk is full or the folder cannot be written.
    """
    output = Path(os.path.abspath(output))
    made = [folder for folder in output.parents if not folder.exists()]
    staged = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    try:
        staged.mkdir(parents=True)
        yield staged
        _publish(staged, output, names)
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)
        for folder in made:
            _remove_if_empty(folder)
        # The file writers' own UserErrors name the hidden folder, which is gone.
        cause = error.__cause__ if isinstance(error, UserError) else error
        if isinstance(cause, OSError):
            raise _write_error(cause, output) from error
        raise


def _publish(staged: Path, output: Path, names: tuple[str, ...]) -> None:
    if not output.exists():
        staged.rename(output)
        return
    old = staged / "old"
    old.mkdir()
    for name in names:
        if (output / name).exists():
            (output / name).rename(old / name)
    for name in names:
        if (staged / name).exists():
            (staged / name).rename(output / name)
    shutil.rmtree(staged)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _write_error(error: OSError, output: Path) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk is full, so {output} was not written; free some space or choose another "
            "folder."
        )
    return UserError(f"Cannot write {output}: {error.strerror or error}; choose another folder.")

"""Writing a file so that it is either whole or absent."""

import os
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

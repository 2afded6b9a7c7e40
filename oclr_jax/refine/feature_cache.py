"""A cache of image features by video, model and frame size: in memory if small, else on disk."""

import hashlib
import json
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8

from oclr_jax.errors import UserError
from oclr_jax.storage import cache_folder

MEMORY_LIMIT = 256 * 2**20  # bytes of all features in memory
DISK_LIMIT = 8 * 2**30  # bytes of all features on disk

_FORMAT = 1
_HEADER = 4096  # bytes before the arrays
_SUFFIX = ".features"
_ABANDONED = 24 * 3600  # seconds after which an unfinished file is taken for a dead process's


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on."""

    video: str  # `video_digest`
    model: str  # names everything that changes them: architecture, weights, layer
    height: int  # of the frames that the model sees
    width: int

    @property
    def filename(self) -> str:
        """Name of the file on disk."""
        text = json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32] + _SUFFIX


def video_digest(frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> str:
    """Identifies a video by the content of its frames, which are read once."""
    digest = hashlib.blake2b(digest_size=16)
    for frame in frames:
        digest.update(repr(frame.shape).encode())
        digest.update(np.ascontiguousarray(frame))
    return digest.hexdigest()


class FeatureCache:
    """Features of videos, one array per frame; all frames of a video have one shape and dtype.

    Features of one video stay in memory up to `memory_limit`, and those used longest ago leave
    memory first. A video with more is written to a file in `folder`, frame by frame as it is
    computed, and later processes find it there. Files used longest ago are removed beyond
    `disk_limit`; a video with more than that is kept for this process only.

    Any number of processes may share the folder: a file appears under its name only when it is
    complete, and one that is removed stays readable where it is open.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None = None,
        memory_limit: int = MEMORY_LIMIT,
        disk_limit: int = DISK_LIMIT,
    ) -> None:
        """`folder` is `features` in the user's cache folder by default; it is made when needed."""
        self.folder = Path(folder) if folder is not None else cache_folder("features")
        self.memory_limit = memory_limit
        self.disk_limit = disk_limit
        self._memory: OrderedDict[FeatureKey, list[np.ndarray]] = OrderedDict()

    def get(
        self, key: FeatureKey, compute: Callable[[], Iterable[np.ndarray]]
    ) -> Sequence[np.ndarray]:
        """Returns the features of a video by frame number.

        `compute` is called if the cache does not hold them, and yields one array for each frame.
        Nothing is kept if it raises.

        Raises UserError if the folder cannot be written, and ValueError if the arrays differ in
        shape or dtype.
        """
        if key in self._memory:
            self._memory.move_to_end(key)
            return self._memory[key]
        found = _open_features(self.folder / key.filename)
        return self._fill(key, iter(compute())) if found is None else found

    def _fill(self, key: FeatureKey, arrays: Iterable[np.ndarray]) -> Sequence[np.ndarray]:
        held: list[np.ndarray] = []
        size = 0
        for array in arrays:
            if held and (array.shape, array.dtype) != (held[0].shape, held[0].dtype):
                raise _mixed(array, held[0])
            held.append(array)
            size += array.nbytes
            if size > self.memory_limit:
                return self._write(key, held, arrays)
            self._shrink_memory(self.memory_limit - size)
        self._memory[key] = held
        return held

    def _shrink_memory(self, limit: int) -> None:
        total = sum(array.nbytes for arrays in self._memory.values() for array in arrays)
        while total > limit:
            _, dropped = self._memory.popitem(last=False)
            total -= sum(array.nbytes for array in dropped)

    def _write(
        self, key: FeatureKey, first: list[np.ndarray], rest: Iterable[np.ndarray]
    ) -> "_FeatureFile":
        """Writes `first`, which is emptied, and then `rest`."""
        unfinished = self.folder / f".{key.filename}.{uuid.uuid4().hex[:8]}"
        shape, dtype = first[0].shape, first[0].dtype
        with _write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(unfinished, "xb+")  # noqa: SIM115 (open as long as the features are used)
        features = _FeatureFile(file, shape, dtype)
        try:
            while first:
                with _write_errors(self.folder):
                    features.append(first.pop(0))
            for array in rest:
                if (array.shape, array.dtype) != (shape, dtype):
                    raise _mixed(array, features[0])
                with _write_errors(self.folder):
                    features.append(array)
            with _write_errors(self.folder):
                if features.finish() <= self.disk_limit:
                    os.replace(unfinished, self.folder / key.filename)
                    self._shrink_disk()
        finally:
            unfinished.unlink(missing_ok=True)
        return features

    def _shrink_disk(self) -> None:
        """Removes the files used longest ago beyond the limit, and what dead processes left."""
        used = {}
        for path in self.folder.iterdir():
            # Another process may remove any of them in the meantime.
            with suppress(OSError):
                status = path.stat()
                if path.suffix == _SUFFIX and not path.name.startswith("."):
                    used[path] = (status.st_mtime_ns, status.st_size)
                elif _SUFFIX in path.name and time.time() - status.st_mtime > _ABANDONED:
                    path.unlink()
        total = sum(size for _, size in used.values())
        for path, (_, size) in sorted(used.items(), key=lambda item: item[1]):
            if total <= self.disk_limit:
                break
            with suppress(OSError):
                path.unlink()
            total -= size


class _FeatureFile(Sequence[np.ndarray]):
    """Features in an open file: a header, then one array after the other."""

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, count: int = 0):
        self._file, self._shape, self._dtype, self._count = file, shape, dtype, count
        self._stride = int(np.prod(shape)) * dtype.itemsize

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, frame: int) -> np.ndarray:
        frame = range(self._count)[frame]
        data = os.pread(self._file.fileno(), self._stride, self._place(frame))
        return np.frombuffer(data, self._dtype).reshape(self._shape)

    def __del__(self) -> None:
        self._file.close()

    def append(self, array: np.ndarray) -> None:
        """Writes the next frame's array."""
        self._file.seek(self._place(self._count))
        self._file.write(np.ascontiguousarray(array).data)
        self._file.flush()  # frames are read past the buffer
        self._count += 1

    def finish(self) -> int:
        """Writes the header; returns the number of bytes in the file."""
        header = {"shape": self._shape, "dtype": self._dtype.str, "count": self._count}
        self._file.seek(0)
        self._file.write(json.dumps(header).encode().ljust(_HEADER))
        self._file.flush()
        return self._place(self._count)

    def complete(self) -> bool:
        """Whether the file has the length that its header tells."""
        return os.fstat(self._file.fileno()).st_size == self._place(self._count)

    def _place(self, frame: int) -> int:
        return _HEADER + frame * self._stride


def _open_features(path: Path) -> _FeatureFile | None:
    """Opens a file and marks it as used; None if there is none or it is not complete."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (it stays open as long as the features are used)
    except OSError:
        return None
    try:
        header = json.loads(file.read(_HEADER))
        shape, dtype = tuple(header["shape"]), np.dtype(header["dtype"])
        features = _FeatureFile(file, shape, dtype, header["count"])
    except (ValueError, KeyError, TypeError):
        file.close()
        return None
    if not features.complete():
        return None
    with suppress(OSError):
        os.utime(path)
    return features


def _mixed(array: np.ndarray, first: np.ndarray) -> ValueError:
    return ValueError(
        f"features of one video must agree in shape and dtype: {array.shape} {array.dtype} after "
        f"{first.shape} {first.dtype}"
    )


@contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot write image features to {folder}: {error.strerror or error}; free some space, "
            "or set the environment variable XDG_CACHE_HOME to another folder."
        ) from error

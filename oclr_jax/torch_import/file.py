"""Reads PyTorch's `.pth` files, in the zip format and the older one, without PyTorch.

No pickle is run (see `pickle.py`). Sizes are checked against the file before they are used.
"""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.torch_import.pickle import Refused, Storage, Tensor, read_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# The pickle of a large model has a few hundred kilobytes.
MAX_PICKLE_BYTES = 16 * 2**20
MAX_ENTRIES = 100_000


def read_torch_file(path: str | Path) -> Any:
    """Reads a file written by `torch.save`: dicts, lists, tuples, plain values, `Tensor`s.

    Raises:
      UserError: the file is missing, damaged, not a PyTorch file, or asks for anything other than
        tensors and plain containers.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _read_zip(path)
            file.seek(0)
            return _read_legacy(file, os.fstat(file.fileno()).st_size)
    except Refused as error:
        raise UserError(f"{path} is refused, and nothing in it was run: {error}.") from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, EOFError, struct.error) as error:
        raise UserError(f"{path} is damaged or cut short; download it again ({error}).") from error
    # Errors of reading arbitrary bytes as a pickle or a zip file.
    except (LookupError, ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError):
        raise UserError(f"{path} is not a PyTorch checkpoint, or it is damaged.") from None


def read_state_dict(path: str | Path) -> tuple[dict[str, np.ndarray], int | None]:
    """The named arrays of a checkpoint, and the iteration at which it was saved, if it tells.

    The file holds a state dict, or a dict with one under `model_state_dict`, `model` (MAE) or
    `teacher` (DINO's training checkpoints). What else it holds, such as the optimizer state, is
    left out. The prefix `module.` is removed if all names share it.

    Raises:
      UserError: the file cannot be read or holds no dict of named tensors.
    """
    contents = read_torch_file(path)
    inner = contents if type(contents) is dict else {}
    wrapped = [
        key for key in ("model_state_dict", "model", "teacher") if type(inner.get(key)) is dict
    ]
    state = inner[wrapped[0]] if wrapped else contents
    if type(state) is not dict or not state or not all(type(v) is Tensor for v in state.values()):
        raise UserError(
            f"{path} is refused: not a model's checkpoint, which is a dict of named tensors."
        )
    names = [str(name) for name in state]
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    arrays = {str(name).removeprefix(prefix): tensor.array() for name, tensor in state.items()}
    iteration = contents.get("iteration") if wrapped else None
    return arrays, iteration if type(iteration) is int else None


def _read_zip(path: Path) -> Any:
    """The format since PyTorch 1.6: `<name>/data.pkl` and `<name>/data/<key>` per storage."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        _check_entries(archive.infolist(), path.stat().st_size)
        described = [
            name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")
        ]
        if len(described) != 1:
            raise Refused("it is a zip file, but not one that torch.save wrote (no data.pkl)")
        folder = described[0].removesuffix("data.pkl")
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise Refused("its numbers are not little-endian")
        if entries[described[0]].file_size > MAX_PICKLE_BYTES:
            raise Refused("its pickle is larger than that of any model")
        contents, storages = read_pickle(archive.read(described[0]))
        for storage in storages.values():
            info = entries.get(f"{folder}data/{storage.key}")
            if info is None:
                raise Refused(f"its storage {storage.key[:40]!r} is missing")
            if info.file_size != storage.nbytes:
                raise Refused(
                    f"its storage {storage.key[:40]!r} has {info.file_size} bytes where "
                    f"{storage.nbytes} are described"
                )
            _fill(storage, archive.read(info))
    return contents


def _check_entries(infos: list[zipfile.ZipInfo], file_size: int) -> None:
    """Refuses, before anything is read, archives that would unpack to more than their own size."""
    if len(infos) > MAX_ENTRIES or len({info.filename for info in infos}) != len(infos):
        raise Refused("its zip directory has repeated or too many entries")
    for info in infos:
        # torch.save stores; bit 0 is encryption.
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Refused(
                f"its entry {info.filename[:80]!r} is compressed, as torch.save never does"
            )
    if sum(info.file_size for info in infos) > file_size:
        raise Refused("its zip directory promises more bytes than the file has")


def _read_legacy(file: io.BufferedReader, file_size: int) -> Any:
    """The older format: five pickles (magic, version, machine, contents, keys), then the data."""
    # Parsed from memory, so that no length inside the pickles can ask for more than this.
    head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    if read_pickle(head)[0] != LEGACY_MAGIC:
        raise ValueError("no magic number")
    if read_pickle(head)[0] != LEGACY_PROTOCOL:
        raise Refused(f"its format is not version {LEGACY_PROTOCOL}")
    machine, _ = read_pickle(head)
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise Refused("its numbers are not little-endian")
    contents, storages = read_pickle(head)
    keys, _ = read_pickle(head)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise Refused("its list of storages is not a list of names")
    if sorted(keys) != sorted(storages):
        raise Refused("its list of storages is not that of its tensors")
    file.seek(head.tell())
    for key in keys:
        storage = storages[key]
        if 8 + storage.nbytes > file_size - file.tell():
            raise EOFError("its data ends early")
        (length,) = struct.unpack("<q", file.read(8))
        if length != storage.length:
            raise Refused(f"its storage {key[:40]!r} has {length} values, not {storage.length}")
        _fill(storage, file.read(storage.nbytes))
    if file.tell() != file_size:
        raise Refused("it has undescribed bytes after its last storage")
    return contents


def _fill(storage: Storage, data: bytes) -> None:
    if len(data) != storage.nbytes:
        raise EOFError("its data ends early")
    storage.data = np.frombuffer(data, storage.dtype)

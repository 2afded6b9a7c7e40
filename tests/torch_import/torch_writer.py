"""Writes files as `torch.save` does, opcode by opcode, so that tests can also write wrong ones."""

import struct
import zipfile
from pathlib import Path

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage"}
KINDS |= {"float64": "DoubleStorage", "bfloat16": "BFloat16Storage", "bool": "BoolStorage"}

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def storage(key: str, length: int, kind: str = "FloatStorage", legacy: bool = False) -> bytes:
    items = [text("storage"), name("torch", kind), text(key), text("cpu"), number(length)]
    return tuple_of(*items, *([b"N"] if legacy else [])) + b"Q"


def tensor(described: bytes, offset: int, shape: tuple, strides: tuple) -> bytes:
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + tuple_of(
            described,
            number(offset),
            tuple_of(*map(number, shape)),
            tuple_of(*map(number, strides)),
            b"\x89",
            ORDERED_DICT,
        )
        + b"R"
    )


def dict_of(items: dict[str, bytes]) -> bytes:
    return ORDERED_DICT + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def whole(key: str, array: np.ndarray, legacy: bool = False) -> bytes:
    """A contiguous tensor that fills its storage."""
    # A scalar has no strides, though ascontiguousarray would give it one.
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    strides = tuple(step // array.itemsize for step in contiguous.strides)
    kind = KINDS[array.dtype.name]
    return tensor(storage(key, array.size, kind, legacy), 0, array.shape, strides)


def write_zip(
    path: Path, body: bytes, data: dict[str, bytes], compression: int = zipfile.ZIP_STORED
) -> Path:
    """The zip format: `body` is the pickle without header and end."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(body))
        archive.writestr("archive/byteorder", b"little")
        for key, values in data.items():
            archive.writestr(f"archive/data/{key}", values)
    return path


def legacy_bytes(
    body: bytes, data: dict[str, bytes], itemsizes: dict[str, int] | None = None
) -> bytes:
    """The older format: magic, version, machine, contents, keys, then each storage's data.

    `itemsizes` are bytes of a number by key, 4 where nothing is said.
    """
    sizes = dict.fromkeys(data, 4) | (itemsizes or {})
    machine = b"}(" + text("little_endian") + b"\x88u"
    keys = b"](" + b"".join(text(key) for key in data) + b"e"
    pickles = [number(LEGACY_MAGIC), number(1001), machine, body, keys]
    values = [struct.pack("<q", len(v) // sizes[key]) + v for key, v in data.items()]
    return b"".join(map(pickled, pickles)) + b"".join(values)


def save_state_zip(path: Path, state: dict[str, np.ndarray]) -> Path:
    keys = {name: str(i) for i, name in enumerate(state)}
    body = dict_of({name: whole(keys[name], array) for name, array in state.items()})
    return write_zip(path, body, {keys[name]: array.tobytes() for name, array in state.items()})


def save_state_legacy(path: Path, state: dict[str, np.ndarray]) -> Path:
    keys = {name: f"9{i}" for i, name in enumerate(state)}
    body = dict_of({name: whole(keys[name], array, True) for name, array in state.items()})
    data = {keys[name]: array.tobytes() for name, array in state.items()}
    itemsizes = {keys[name]: array.itemsize for name, array in state.items()}
    path.write_bytes(legacy_bytes(body, data, itemsizes))
    return path

"""Reads the pickle inside a PyTorch checkpoint as data, with a small stack machine.

Python's unpickler imports the names in a file and calls what it imported. This machine supports a
fixed list of opcodes and the few names below. It imports nothing and calls only its own functions.
Containers become dict, list and tuple, tensors become `Tensor`. The options of a training program
(argparse.Namespace) become an empty dict.
"""

import io
import math
import pickletools
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

# The dtype of each type of storage, as torch.save writes it.
STORAGE_TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
MAX_RANK = 16


class Refused(Exception):
    """The file asks for something that no checkpoint needs, or is inconsistent."""


@dataclass(eq=False)
class Storage:
    """A flat array that tensors view; `data` is set once the file's bytes are read."""

    key: str
    dtype: np.dtype
    length: int
    data: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.length * self.dtype.itemsize


@dataclass(eq=False)
class Tensor:
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self):
        numbers = (self.offset, *self.shape, *self.strides)
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise Refused("a tensor's offset, shape and strides must be whole numbers from 0")
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_RANK:
            raise Refused("a tensor's shape and strides do not belong together")
        size = math.prod(self.shape)
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((n - 1) * stride for n, stride in steps)
        # Strides of 0 could make a few bytes a tensor of any size.
        if size > self.storage.length or (size and last >= self.storage.length):
            raise Refused(f"a tensor reaches outside of its storage {self.storage.key[:40]!r}")

    def array(self) -> np.ndarray:
        """The values, read-only, without a copy."""
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, self.storage.dtype)
        item = self.storage.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            self.storage.data[self.offset :],
            self.shape,
            tuple(stride * item for stride in self.strides),
            writeable=False,
        )


@dataclass(frozen=True)
class Name:
    """A name that the file refers to; only the words, never the object with this name."""

    module: str
    name: str


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not (type(storage) is Storage and type(shape) is tuple and type(strides) is tuple):
        raise Refused("a tensor is not described by a storage, an offset, a shape and strides")
    return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(tensor: Any, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        raise Refused("a parameter does not hold a tensor")
    return tensor


# The only names that may be called, and the functions of this module that replace them.
CALLABLE = {
    Name("collections", "OrderedDict"): dict,
    Name("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}
# Training checkpoints carry their program's options as an object of this class.
NAMESPACE = Name("argparse", "Namespace")
STORAGES = {Name("torch", name): dtype for name, dtype in STORAGE_TYPES.items()}

PUSH_ARGUMENT = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
PUSH_ARGUMENT |= {"SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
PUSH_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
PUSH_NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
NOTHING = {"PROTO", "FRAME"}


@dataclass
class Machine:
    """The state while one pickle is read. `storages` collects the storages of its tensors."""

    storages: dict[str, Storage]
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # stacks under each open mark
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: io.BytesIO) -> Any:
        """Reads one pickle; the stream is left at its end."""
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                if self.below or len(self.stack) != 1:
                    raise Refused("its pickle ends in the middle")
                return self.stack.pop()
            if name in PUSH_ARGUMENT:
                self.stack.append(argument)
            elif name in PUSH_CONSTANT:
                self.stack.append(PUSH_CONSTANT[name])
            elif name in PUSH_NEW:
                self.stack.append(PUSH_NEW[name]())
            elif name not in NOTHING:
                operation = OPERATIONS.get(name)
                if operation is None:
                    raise Refused(f"its pickle uses {name}, which no checkpoint needs")
                operation(self, argument)
        raise Refused("its pickle has no end")

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def make_tuple(self, count: int | None) -> None:
        if count is None:
            items = self.since_mark()
        else:
            items = [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("its pickle appends to what is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused("its pickle sets items of what is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hash of a nested tuple can take forever.
            if type(key) not in (str, int):
                raise Refused("its pickle has a dict key that is neither text nor a number")
            target[key] = value

    def name(self, module: Any, name: Any) -> None:
        found = Name(module, name)
        known = type(module) is type(name) is str
        if not known or not (found in CALLABLE or found in STORAGES or found == NAMESPACE):
            shown = f"{module}.{name}" if type(module) is type(name) is str else "an unnamed thing"
            raise Refused(f"it asks for {shown[:120]!r}, which a checkpoint does not need")
        self.stack.append(found)

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or function not in CALLABLE or type(arguments) is not tuple:
            raise Refused("its pickle calls what is not a function")
        if CALLABLE[function] is dict and arguments:
            raise Refused("its pickle makes an OrderedDict with arguments")
        self.stack.append(CALLABLE[function](*arguments))

    def new_object(self, _: Any) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if kind != NAMESPACE or arguments != ():
            raise Refused("its pickle makes an object that no checkpoint needs")
        self.stack.append({})

    def build(self, _: Any) -> None:
        # State dicts carry `_metadata` as an attribute, and a Namespace all of its options. Nothing
        # in them is needed.
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise Refused("its pickle sets attributes of what is not a state dict")

    def storage(self, _: Any) -> None:
        described = self.stack.pop()
        if type(described) is not tuple or len(described) not in (5, 6):
            raise Refused("its pickle refers to data outside of it that is not a storage")
        kind, dtype, key, _, length, *view = described
        if kind != "storage" or type(dtype) is not Name or type(key) is not str:
            raise Refused("its pickle refers to data outside of it that is not a storage")
        if (
            dtype not in STORAGES
            or type(length) is not int
            or length < 0
            or view not in ([], [None])
        ):
            raise Refused(f"the storage {key[:40]!r} has no type and length that can be read")
        known = self.storages.setdefault(key, Storage(key, STORAGES[dtype], length))
        if (known.dtype, known.length) != (STORAGES[dtype], length):
            raise Refused(f"the storage {key[:40]!r} is described in two ways")
        self.stack.append(known)


OPERATIONS = {
    "MARK": Machine.mark,
    "TUPLE": Machine.make_tuple,
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "BINPUT": Machine.put,
    "LONG_BINPUT": Machine.put,
    "MEMOIZE": Machine.put,
    "BINGET": Machine.get,
    "LONG_BINGET": Machine.get,
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(
        [machine.stack.pop(), machine.stack.pop()][::-1]
    ),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(
        *[machine.stack.pop(), machine.stack.pop()][::-1]
    ),
    "REDUCE": Machine.reduce,
    "NEWOBJ": Machine.new_object,
    "BUILD": Machine.build,
    "BINPERSID": Machine.storage,
}


def read_pickle(stream: io.BytesIO | bytes) -> tuple[Any, dict[str, Storage]]:
    """Reads one pickle as plain containers; also returns the storages of its tensors, by key.

    Raises:
      Refused: for opcodes, names or descriptions that are not supported.
      Exception: of other types for damaged bytes (`ValueError`, `IndexError`, ...).
    """
    stream = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    storages: dict[str, Storage] = {}
    return Machine(storages).run(stream), storages

"""Reads the text of a compiled XLA program: its collectives, and the bytes of its operations."""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
# Operations that move no data of their own: names for what others made, and control flow, whose
# bodies are counted.
_FREE = {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
_BITS = {"pred": 8, "token": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
# Fusions that exchange arrays beside their own work.
_STARTS, _ENDS = "async-collective-start", "async-collective-done"
_CARRIED = re.compile(rf"^%({_STARTS}|{_ENDS})|calls=%async_collective_fusion")
_FRAME = re.compile(r"stack_frame_id=(\d+)")


class Instruction(NamedTuple):
    """One operation of a program.

    name: in the program.
    kind: the operation, such as "fusion".
    shape: text of the type of its result.
    operands: names.
    attributes: the rest of the text.
    """

    name: str
    kind: str
    shape: str
    operands: tuple[str, ...]
    attributes: str


class Traffic(NamedTuple):
    """What one operation moves between the chip's main memory and its arithmetic units.

    name, kind: of the operation.
    source: file and line of the Python code, or "".
    bytes: of its operands and results in main memory, tile padding included, over all repetitions.
    """

    name: str
    kind: str
    source: str
    bytes: int


@dataclass(frozen=True)
class Program:
    """A compiled program, as `jax.stages.Compiled.as_text` prints it."""

    text: str

    @cached_property
    def computations(self) -> dict[str, list[Instruction]]:
        """The instructions of every computation; the entry has the name ""."""
        found: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        for line in self.text.splitlines():
            if head := _COMPUTATION.match(line):
                current = found.setdefault("" if head[1] else head[2], [])
            elif body := _INSTRUCTION.match(line):
                current.append(_parse(body[1], body[2]))
        return found

    def collectives(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the collectives that a run performs, by kind."""
        return self._exchanges([*self._executed(), *self._begun()])

    def overlapped(self) -> int:
        """Bytes of the collectives that run beside other operations, as one fusion with them."""
        return sum(size for _, size in self._exchanges(self._begun()).values())

    def _begun(self) -> Iterator[tuple[Instruction, int]]:
        """The insides of fusions that start a collective; other fusions carry and end it."""
        for instruction, times in self._executed():
            if instruction.kind == "fusion" and instruction.name.startswith(_STARTS):
                yield from ((inside, times) for inside in self._callee(instruction))

    def _exchanges(
        self, instructions: Iterable[tuple[Instruction, int]]
    ) -> dict[str, tuple[int, int]]:
        totals = dict.fromkeys(COLLECTIVES, (0, 0))
        for instruction, times in instructions:
            kind = instruction.kind.removesuffix("-start")
            if kind in totals:
                shape = instruction.shape
                # An asynchronous all-reduce has the result alone as its type; the others have
                # (operands, results).
                if instruction.kind.endswith("-start") and kind != "all-reduce":
                    size = array_bytes(shape, padded=False) // 2
                else:
                    size = array_bytes(shape, padded=False)
                count, total = totals[kind]
                totals[kind] = count + times, total + times * size
        return {kind: value for kind, value in totals.items() if value[0]}

    def traffic(self) -> list[Traffic]:
        """The operations that move data, largest first."""
        moved = []
        for instruction, times in self._executed():
            size = times * self._bytes(instruction)
            if size:
                source = self._source(instruction.attributes)
                moved.append(Traffic(instruction.name, instruction.kind, source, size))
        return sorted(moved, key=lambda traffic: -traffic.bytes)

    @cached_property
    def _made(self) -> dict[str, Instruction]:
        # Names are unique in a program.
        return {each.name: each for body in self.computations.values() for each in body}

    @cached_property
    def _shapes(self) -> dict[str, str]:
        return {name: each.shape for name, each in self._made.items()}

    def _executed(self, name: str = "", times: int = 1) -> Iterator[tuple[Instruction, int]]:
        """Every executed instruction and how often; the insides of fusions are no part of it."""
        for instruction in self.computations.get(name, []):
            yield instruction, times
            for callee, repeats in self._callees(instruction):
                yield from self._executed(callee, times * repeats)

    def _callees(self, instruction: Instruction) -> list[tuple[str, int]]:
        attributes = instruction.attributes
        if instruction.kind == "while":
            body = re.search(r"body=%([\w.\-]+)", attributes)[1]
            condition = re.search(r"condition=%([\w.\-]+)", attributes)[1]
            return [(body, self._trips(condition))]
        if instruction.kind == "call":
            return [(re.search(r"to_apply=%([\w.\-]+)", attributes)[1], 1)]
        if instruction.kind == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
            names = (
                branches[1] if branches else " ".join(re.findall(r"_computation=%\S+", attributes))
            )
            # At most one branch runs; the first stands for it.
            return [(name, 1) for name in re.findall(r"%([\w.\-]+)", names)[:1]]
        return []

    def _trips(self, condition: str) -> int:
        """Repetitions of a loop that counts up to a constant; 1 where it is another kind."""
        constants = [
            int(bound[1])
            for each in self.computations.get(condition, [])
            if each.kind == "constant" and (bound := re.match(r"(\d+)\)", each.attributes))
        ]
        return max(constants, default=1)

    def _bytes(self, instruction: Instruction) -> int:
        """Bytes that an operation reads and writes; of what it slices, the slices alone."""
        if instruction.kind in _FREE or instruction.kind.endswith("-done"):
            return 0
        if instruction.kind in ("copy-start", "slice-start"):
            # The types are (result, operand, context) and (operands, result, context).
            first = self._shapes.get(instruction.operands[0], "")
            result = _arrays(instruction.shape)[instruction.kind == "slice-start"]
            written = array_bytes(result)
            return written + min(array_bytes(first), array_bytes(result, anywhere=True))
        shapes = [self._shapes.get(name, "") for name in instruction.operands]
        if _CARRIED.search(f"%{instruction.name} {instruction.attributes}"):
            return self._beside_a_collective(instruction, shapes)
        reads = sum(self._read(instruction, i, shape) for i, shape in enumerate(shapes))
        return reads + self._written(instruction)

    def _beside_a_collective(self, fusion: Instruction, shapes: list[str]) -> int:
        """Bytes of a fusion that starts, carries or ends a collective: what is passed on is free.

        The start reads and writes what is exchanged.
        """
        if fusion.name.startswith(_ENDS):
            return 0
        places = re.findall(r"\{(\d+)\}: \((\d+), ", fusion.attributes.partition("calls=")[0])
        results = {int(result) for result, _ in places}
        starts = fusion.name.startswith(_STARTS)
        operands = set() if starts else {int(operand) for _, operand in places}
        read = sum(self._read(fusion, i, s) for i, s in enumerate(shapes) if i not in operands)
        written = (s for i, s in enumerate(_arrays(fusion.shape)) if i not in results)
        return read + sum(map(array_bytes, written))

    def _read(self, user: Instruction, place: int, shape: str) -> int:
        """Bytes that `user` reads of its operand at `place`."""
        whole = array_bytes(shape)
        if user.kind in ("dynamic-slice", "slice"):
            return min(whole, array_bytes(user.shape, anywhere=True)) if place == 0 else whole
        if user.kind == "dynamic-update-slice":
            return 0 if place == 0 else whole  # in place
        if user.kind == "fusion":
            callee = self._callee(user)
            (name,) = (
                each.name
                for each in callee
                if each.kind == "parameter" and each.attributes.startswith(f"{place})")
            )
            return min(whole, self._read_of(name, callee, whole))
        return whole

    def _read_of(self, name: str, body: list[Instruction], whole: int) -> int:
        """Bytes that a fusion reads of its value `name`."""
        total = 0
        for user in body:
            for place, operand in enumerate(user.operands):
                if operand != name:
                    continue
                if user.kind in ("bitcast", "convert"):
                    total += self._read_of(user.name, body, whole)
                else:
                    total += min(whole, self._read(user, place, self._shapes[name]))
        return total

    def _written(self, instruction: Instruction) -> int:
        """Bytes of the results of an operation; of an update in place, those of the update."""
        whole = array_bytes(instruction.shape)
        if not whole:
            return 0
        if instruction.kind == "dynamic-update-slice":
            return min(whole, array_bytes(self._shapes[instruction.operands[1]], anywhere=True))
        if instruction.kind in ("fusion", "bitcast"):
            if instruction.kind == "fusion":
                root = self._callee(instruction)[-1]
            else:
                root = self._made[instruction.operands[0]]
            if root.kind == "tuple":
                parts = zip(root.operands, _arrays(instruction.shape), strict=True)
                return sum(
                    min(array_bytes(shape), self._written(self._made[name]))
                    for name, shape in parts
                )
            if root.kind in ("fusion", "bitcast", "dynamic-update-slice"):
                return min(whole, self._written(root))
        return whole

    def _callee(self, fusion: Instruction) -> list[Instruction]:
        return self.computations[re.search(r"calls=%([\w.\-]+)", fusion.attributes)[1]]

    def _source(self, attributes: str) -> str:
        frame = _FRAME.search(attributes)
        return self._frames.get(int(frame[1]), "") if frame else ""

    @cached_property
    def _frames(self) -> dict[int, str]:
        """File and line of every stack frame, from the tables in front of the program."""
        head = self.text[: self.text.find("\n%")]
        names = head[head.find("FileNames") : head.find("FunctionNames")]
        files = dict(re.findall(r'^(\d+) "([^"]*)"$', names, re.M))
        places = {
            number: f"{files.get(file, '')}:{line}"
            for number, file, line in re.findall(
                r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", head, re.M
            )
        }
        frames = re.findall(r"^(\d+) \{file_location_id=(\d+)", head, re.M)
        return {int(number): places.get(place, "") for number, place in frames}


def array_bytes(shape: str, padded: bool = True, anywhere: bool = False) -> int:
    """Bytes of the arrays of a type that lie in main memory.

    Args:
      shape: text of a type, such as "(bf16[30,128]{1,0:T(8,128)(2,1)}, f32[4]{0:S(1)})".
      padded: count the padding of the last two dimensions to whole tiles, and leave out arrays in
        other memory spaces (`S(1)` and up).
      anywhere: count these too.
    """
    return sum(_one_array(*array, padded, anywhere) for array in _ARRAY.findall(shape))


def _arrays(shape: str) -> list[str]:
    """The types of the arrays of a tuple."""
    return [array[0] for array in _ARRAY.finditer(shape)]


def _one_array(dtype: str, dimensions: str, layout: str, padded: bool, anywhere: bool) -> int:
    bits = _BITS.get(dtype)
    if bits is None:
        bits = int(re.search(r"\d+", dtype)[0])
    sizes = [int(size) for size in dimensions.split(",") if size]
    order, _, details = layout.partition(":")
    if padded:
        if re.search(r"S\([1-9]\d*\)", details) and not anywhere:
            return 0
        tile = re.search(r"T\(([\d,]+)\)", details)
        # The layout lists the dimensions from the fastest varying one on.
        fastest = [int(axis) for axis in order.split(",") if axis]
        if tile and fastest:
            for axis, length in zip(fastest, reversed(tile[1].split(",")), strict=False):
                sizes[axis] = -(-sizes[axis] // int(length)) * int(length)
    return math.prod(sizes) * bits // 8


def _parse(name: str, text: str) -> Instruction:
    """An instruction from the text after `name = `: type, kind(operands), attributes."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inside, attributes = rest[opening + 1 : closing], rest[closing + 1 :]
    kind = rest[:opening]
    if kind in ("constant", "parameter"):
        return Instruction(name, kind, shape, (), inside + ")")
    return Instruction(name, kind, shape, tuple(re.findall(r"%([\w.\-]+)", inside)), attributes)


def _closing(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"no closing parenthesis in {text[:80]}")

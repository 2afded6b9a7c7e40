"""The corrections that exist, what they need, and what they do to the objects of a video."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

from oclr_jax.errors import UserError
from oclr_jax.results import SegmentationRecord

_MAX_ID = 255  # of an 8-bit mask


@dataclass(frozen=True)
class Scene:
    """The objects of a video before or after a correction."""

    frames: int  # of the video
    order: tuple[int, ...]  # ids, front to back
    spans: Mapping[int, tuple[int, int]]  # first and last frame by id
    foreground: tuple[int, ...]  # ids that were chosen, ascending; empty for no choice
    last_id: int  # the highest id that was ever given

    @classmethod
    def of_record(cls, record: SegmentationRecord) -> "Scene":
        """The objects as they were found."""
        objects = sorted(record["objects"], key=lambda entry: (entry["depth_rank"], entry["id"]))
        return cls(
            frames=record["video"]["frames"],
            order=tuple(entry["id"] for entry in objects),
            spans={entry["id"]: (entry["first_frame"], entry["last_frame"]) for entry in objects},
            foreground=(),
            last_id=max((entry["id"] for entry in objects), default=0),
        )


@runtime_checkable
class Operation(Protocol):
    """One correction. Its fields are those of its JSON object, beside `kind`."""

    kind: ClassVar[str]

    def after(self, scene: Scene) -> Scene:
        """The scene after the correction; UserError where it cannot be made."""

    def rename(self, id: int, frame: int) -> int | None:
        """The id that an object has afterwards in a frame; None where it is gone."""

    def describe(self) -> str:
        """The correction in words."""


@dataclass(frozen=True)
class Merge:
    """Two ids are one object, which keeps the id and the depth of `into`."""

    kind: ClassVar[str] = "merge"
    id: int
    into: int

    def after(self, scene: Scene) -> Scene:
        _check_ids(scene, [self.id, self.into])
        if self.id == self.into:
            raise UserError(f"Object {self.id} cannot be merged with itself; give two objects.")
        spans = dict(scene.spans)
        gone, kept = spans.pop(self.id), spans[self.into]
        spans[self.into] = (min(gone[0], kept[0]), max(gone[1], kept[1]))
        return replace(
            scene,
            order=tuple(id for id in scene.order if id != self.id),
            spans=spans,
            foreground=_ascending(self.into if id == self.id else id for id in scene.foreground),
        )

    def rename(self, id: int, frame: int) -> int:
        return self.into if id == self.id else id

    def describe(self) -> str:
        return f"merge {self.id} into {self.into}"


@dataclass(frozen=True)
class Split:
    """From `frame` on an object has the id `new_id`; its depth is right behind the old one's."""

    kind: ClassVar[str] = "split"
    id: int
    frame: int
    new_id: int

    def after(self, scene: Scene) -> Scene:
        _check_ids(scene, [self.id])
        first, last = scene.spans[self.id]
        if not first < self.frame <= last:
            raise UserError(
                f"Object {self.id} is there from frame {first} to {last}; it cannot be split at "
                f"frame {self.frame}, only after the first of these."
            )
        if not scene.last_id < self.new_id <= _MAX_ID:
            raise UserError(
                f"The id {self.new_id} is not free; new ids go from {scene.last_id + 1} to "
                f"{_MAX_ID}."
            )
        place = scene.order.index(self.id) + 1
        spans = {**scene.spans, self.id: (first, self.frame - 1), self.new_id: (self.frame, last)}
        chosen = (*scene.foreground, self.new_id) if self.id in scene.foreground else ()
        return replace(
            scene,
            order=(*scene.order[:place], self.new_id, *scene.order[place:]),
            spans=spans,
            foreground=chosen or scene.foreground,
            last_id=self.new_id,
        )

    def rename(self, id: int, frame: int) -> int:
        return self.new_id if id == self.id and frame >= self.frame else id

    def describe(self) -> str:
        return f"split {self.id} at frame {self.frame}: {self.new_id} from there on"


@dataclass(frozen=True)
class Drop:
    """An object is none; its pixels go to what lies behind it."""

    kind: ClassVar[str] = "drop"
    id: int

    def after(self, scene: Scene) -> Scene:
        _check_ids(scene, [self.id])
        return replace(
            scene,
            order=tuple(id for id in scene.order if id != self.id),
            spans={id: span for id, span in scene.spans.items() if id != self.id},
            foreground=tuple(id for id in scene.foreground if id != self.id),
        )

    def rename(self, id: int, frame: int) -> int | None:
        return None if id == self.id else id

    def describe(self) -> str:
        return f"drop {self.id}"


@dataclass(frozen=True)
class Order:
    """The depth order is `ids`, front to back. What comes forward covers what it passed."""

    kind: ClassVar[str] = "order"
    ids: tuple[int, ...]

    def after(self, scene: Scene) -> Scene:
        if sorted(self.ids) != sorted(scene.order):
            raise UserError(
                f"A depth order names every object once, which are {_list(scene.order)}; got "
                f"{_list(self.ids)}."
            )
        return replace(scene, order=self.ids)

    def rename(self, id: int, frame: int) -> int:
        return id

    def describe(self) -> str:
        return f"depth order {_list(self.ids)}, front to back"


@dataclass(frozen=True)
class Foreground:
    """The objects `ids` are the foreground of the video; none for no choice."""

    kind: ClassVar[str] = "foreground"
    ids: tuple[int, ...]

    def after(self, scene: Scene) -> Scene:
        _check_ids(scene, self.ids)
        return replace(scene, foreground=_ascending(self.ids))

    def rename(self, id: int, frame: int) -> int:
        return id

    def describe(self) -> str:
        return f"foreground {_list(self.ids)}" if self.ids else "no choice of a foreground"


_KINDS = {kind.kind: kind for kind in (Merge, Split, Drop, Order, Foreground)}


def parse_operation(value: Any, scene: Scene) -> Operation:
    """A correction from its JSON object; the new id of a split may be missing.

    Raises:
      UserError: it is none, or it cannot be made in `scene`.
    """
    kind = _KINDS.get(value.get("kind")) if isinstance(value, dict) else None
    if kind is None:
        raise UserError(f"A correction has a kind, one of {', '.join(_KINDS)}; got {value!r}.")
    given = {name: content for name, content in value.items() if name != "kind"}
    if kind is Split:
        given.setdefault("new_id", scene.last_id + 1)
    names = [field.name for field in fields(kind)]
    if sorted(given) != sorted(names):
        raise UserError(f"A correction of kind {kind.kind} has {', '.join(names)}; got {value!r}.")
    for name, content in given.items():
        whole = content if name == "ids" else [content]
        if not isinstance(whole, list) or any(type(number) is not int for number in whole):
            what = "a list of whole numbers" if name == "ids" else "a whole number"
            raise UserError(f"In a correction {name} is {what}; got {content!r}.")
    operation = kind(**{k: tuple(v) if k == "ids" else v for k, v in given.items()})
    operation.after(scene)
    return operation


def to_json(operation: Operation) -> dict[str, Any]:
    """The JSON object of a correction."""
    values = asdict(operation)
    return {"kind": operation.kind, **{k: list(v) if k == "ids" else v for k, v in values.items()}}


def _check_ids(scene: Scene, ids: Sequence[int]) -> None:
    missing = [id for id in ids if id not in scene.order]
    if missing:
        raise UserError(
            f"There is no object {missing[0]}; there are {_list(scene.order) or 'none'}."
        )


def _ascending(ids) -> tuple[int, ...]:
    return tuple(sorted(set(ids)))


def _list(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))

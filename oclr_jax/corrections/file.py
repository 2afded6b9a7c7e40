"""corrections.json: the corrections of a result, in order, and those that were undone."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from oclr_jax.corrections.frames import Step
from oclr_jax.corrections.operations import Operation, Scene, parse_operation, to_json
from oclr_jax.errors import UserError
from oclr_jax.files import write_json
from oclr_jax.results import SegmentationRecord

FILE_NAME = "corrections.json"
SCHEMA_VERSION = 1


class Corrections:
    """The corrections of a folder of results. Every change is written at once.

    Example:
      >>> corrections = Corrections("result", read_record("result"))
      >>> corrections.add({"kind": "merge", "id": 2, "into": 1})
      >>> corrections.undo()

    Attributes:
      steps: the corrections that hold, in order.
      undone: those that `redo` brings back, the next one last.
    """

    def __init__(self, result: str | os.PathLike, record: SegmentationRecord):
        """Reads the corrections, if there are any.

        Raises:
          UserError: the file is broken, or belongs to other results.
        """
        self._path = Path(result) / FILE_NAME
        self._fingerprint = _fingerprint(Path(result) / "objects.json")
        self._found = Scene.of_record(record)
        self.steps: list[Step] = []
        self.undone: list[Operation] = []
        if self._path.exists():
            self._read()

    @property
    def scene(self) -> Scene:
        """The objects after all corrections."""
        return self.steps[-1].after if self.steps else self._found

    def add(self, value: Any) -> Operation:
        """Appends a correction, given as its JSON object; UserError where it cannot be made."""
        operation = parse_operation(value, self.scene)
        self._append(operation)
        self.undone = []
        self._write()
        return operation

    def undo(self) -> Operation:
        """Takes the last correction back; UserError where there is none."""
        if not self.steps:
            raise UserError("There is no correction to undo.")
        operation = self.steps.pop().operation
        self.undone.append(operation)
        self._write()
        return operation

    def redo(self) -> Operation:
        """Makes the correction again that was undone last; UserError where there is none."""
        if not self.undone:
            raise UserError("There is no correction to make again.")
        operation = self.undone.pop()
        self._append(operation)
        self._write()
        return operation

    def to_json(self) -> list[dict[str, Any]]:
        """The corrections as JSON objects."""
        return [to_json(step.operation) for step in self.steps]

    def _append(self, operation: Operation) -> None:
        before = self.scene
        self.steps.append(Step(operation, before, operation.after(before)))

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            version, result = content["schema_version"], content["result"]
            listed, undone = list(content["operations"]), list(content["undone"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._path} is no file of corrections; remove it.") from error
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{self._path} has schema version {version} and {SCHEMA_VERSION} is needed; remove "
                "it and correct again."
            )
        if result != self._fingerprint:
            raise UserError(
                f"{self._path} corrects other results than those beside it; remove it and correct "
                "again."
            )
        for value in listed:
            self._append(parse_operation(value, self.scene))
        # Undone corrections follow those that hold, the next one first.
        scene = self.scene
        for value in reversed(undone):
            operation = parse_operation(value, scene)
            scene = operation.after(scene)
            self.undone.insert(0, operation)

    def _write(self) -> None:
        content = {
            "schema_version": SCHEMA_VERSION,
            "result": self._fingerprint,
            "operations": self.to_json(),
            "undone": [to_json(operation) for operation in self.undone],
        }
        write_json(self._path, content)


def _fingerprint(path: Path) -> str:
    """The results that corrections belong to: the SHA-256 of their objects.json."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

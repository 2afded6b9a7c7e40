"""What an adaptation has done so far, on disk, so that the same command goes on after a stop.

Several processes share the folder: each makes its part of the arrays, and process 0 writes what all
of them make together.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.files import replacing, write_json
from oclr_jax.train.processes import is_lead, own_part, wait_for_all
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights

Arrays = TypeVar("Arrays")  # a NamedTuple of arrays


class State:
    """The folder `state` of an adaptation: each part of the work is done once and kept.

    plan: JSON values that the work depends on. A folder with another plan is refused.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]):
        """Opens the state, or begins one.

        Raises:
          UserError: the folder belongs to an adaptation with another plan, or is damaged.
        """
        self.folder, path = folder, folder / "plan.json"
        begun = path.exists()
        wait_for_all("the state is looked for")
        if begun:
            before = _read_json(path)
            other = [name for name in plan if before.get(name) != plan[name]]
            if other:
                raise UserError(
                    f"{folder.parent} has an unfinished adaptation with other {', '.join(other)}; "
                    "give the command that began it, or choose another folder."
                )
        elif is_lead():
            write_json(path, plan)
        seconds = folder / "seconds.json"
        self._seconds: dict[str, float] = _read_json(seconds) if seconds.exists() else {}
        wait_for_all("the state is open")

    def arrays(
        self, name: str, kind: type[Arrays], makes: Sequence[Callable[[], Arrays]]
    ) -> list[Arrays]:
        """Named arrays, one record for each of `makes`, stored before or made now."""
        paths = [self.folder / f"{name}_{number:04d}.npz" for number in range(len(makes))]
        for path, make in own_part(list(zip(paths, makes, strict=True))):
            if not path.exists():
                with replacing(path) as temporary:
                    np.savez_compressed(temporary, **make()._asdict())
        wait_for_all(name)
        return [_read_arrays(path, kind) for path in paths]

    def has_params(self, name: str) -> bool:
        """Whether parameters are stored under a name."""
        return (self.folder / f"{name}.safetensors").exists()

    def params(
        self,
        name: str,
        kind: str,
        info: WeightsInfo,
        make: Callable[[], tuple[dict[str, Any], dict[str, float]]],
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Parameters of a model and metrics of their training, stored before or made now.

        Args:
          name: of the file.
          kind, info: of the model; see `load_weights`.
          make: returns both.
        """
        path = self.folder / f"{name}.safetensors"
        if not self.has_params(name):
            params, metrics = make()
            if is_lead():
                save_weights(path, params, replace(info, card=metrics), dtype="float32")
            wait_for_all(name)
        params, info = load_weights(path, kind)
        return params, info.card

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time of the block to that of a part of the work, over all sessions."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.monotonic() - start
            if is_lead():
                write_json(self.folder / "seconds.json", self._seconds)

    @property
    def seconds(self) -> dict[str, float]:
        """The time of each part so far."""
        return dict(self._seconds)

    def remove(self) -> None:
        """Removes everything: the adaptation is finished."""
        shutil.rmtree(self.folder)


def _read_arrays(path: Path, kind: type[Arrays]) -> Arrays:
    with np.load(path) as stored:
        return kind(**stored)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); remove its folder to start again."
        ) from error

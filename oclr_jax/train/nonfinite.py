"""Steps whose loss or gradient is not finite: named, bounded in number, their batch kept."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.train.devices import say
from oclr_jax.types import AnyBatch

FOLDER = "nonfinite"  # in the workdir
_KEPT = 10  # batches; a training that skips for long would fill the disk


@dataclass
class NonFiniteSteps:
    """What a training does about steps that the compiled step left without effect.

    workdir: gets the folder `nonfinite` with the batches of such steps, at most ten.
    batches: from a step on, counted from 0, the batches of that step and of all later ones.
    samples: what the batch of a step is made of, in words.
    policy: "stop" ends the training at the first, "skip" goes on with the next batch.
    max_in_row: so many may be skipped one after the other.
    """

    workdir: os.PathLike
    batches: Callable[[int], Iterable[AnyBatch]]
    samples: Callable[[int], str]
    policy: str
    max_in_row: int
    in_row: int = 0

    def __post_init__(self):
        if self.policy not in ("stop", "skip"):
            raise UserError(f"on_nonfinite is {self.policy!r}; choose stop or skip.")

    def look(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether the step counts; to be asked for one after the other.

        Raises:
          UserError: it does not, and the training must end.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_row = 0
            return True
        self.in_row += 1
        what = f"step {step}: the loss is {loss} and the gradient's norm {grad_norm}"
        samples = self.samples(step - 1)
        what += f" on {samples}" if samples else ""
        kept = self._keep(step, samples)
        if self.policy == "stop":
            raise UserError(
                f"Training stopped at {what}; {kept}, and to go on lower "
                "--config.optimizer.learning_rate with --config.accept_changes, or leave such "
                "steps out with --config.on_nonfinite=skip."
            )
        if self.in_row > self.max_in_row:
            raise UserError(
                f"Training stopped at {what}, after {self.max_in_row} steps in a row that were "
                f"skipped; {kept}, and to go on lower the learning rate."
            )
        say(f"Skipped {what}; {kept}.")
        return False

    def _keep(self, step: int, samples: str) -> str:
        """Writes the batch of a step, made once more, and says where it is."""
        folder = epath.Path(self.workdir) / FOLDER
        try:
            folder.mkdir(exist_ok=True)
            process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
            path = folder / f"step_{step}{process}.npz"
            if not path.exists() and len(list(folder.iterdir())) >= _KEPT:
                return f"{folder} is full, so its batch is not kept"
            with replacing(path) as unfinished, unfinished.open("wb") as file:
                batch = batch_of(self.batches, step)
                np.savez_compressed(file, step=step, samples=samples, **batch)
        except (OSError, UserError) as error:
            return f"its batch cannot be kept ({error})"
        return f"its batch is in {os.fspath(path)} for --replay"


def batch_of(batches: Callable[[int], Iterable[AnyBatch]], step: int) -> AnyBatch:
    """The batch that the training's step, counted from 1, learns from."""
    rest = iter(batches(step - 1))
    batch = next(rest)
    if hasattr(rest, "close"):
        rest.close()
    return batch


def read_batch(path: str | os.PathLike, fields: Iterable[str]) -> tuple[AnyBatch, int, str]:
    """A batch with these fields that was kept, its step, and which samples it holds.

    Nothing in it is executed.

    Raises:
      UserError: where the file cannot be read.
    """
    try:
        with epath.Path(path).open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays: dict[str, Any] = {name: kept[name] for name in kept.files}
        step, samples = int(arrays.pop("step")), str(arrays.pop("samples"))
        return {name: arrays[name] for name in fields}, step, samples
    except Exception as error:
        raise UserError(
            f"{path} is not a batch that a training kept ({error}); name a file of its folder "
            f"{FOLDER}."
        ) from error

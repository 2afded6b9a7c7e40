"""Steps whose loss or gradient is not finite: reported, limited in number, their batch kept."""

import math
import os
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.train.data import TrainingData, read_batches
from oclr_jax.train.processes import print_once

FOLDER = "nonfinite"  # in the workdir
_KEPT = 10  # batches; a training that skips many steps must not fill the disk


@dataclass
class NonFiniteSteps:
    """What a training does about steps that had no effect because something was not finite.

    workdir: gets the folder `nonfinite` with the batches of such steps, at most ten.
    data: of the training.
    policy: "stop" ends the training at the first such step, "skip" continues with the next batch.
    max_in_row: number of steps that may be skipped one after the other.
    """

    workdir: os.PathLike
    data: TrainingData
    policy: str
    max_in_row: int
    in_row: int = 0

    def __post_init__(self):
        if self.policy not in ("stop", "skip"):
            raise UserError(f"on_nonfinite is {self.policy!r}; choose stop or skip.")

    def check(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step is finite; call it for every step in order.

        Raises:
          UserError: it is not, and the training must end.
        """
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.in_row = 0
            return True
        self.in_row += 1
        what = f"step {step}: the loss is {loss} and the norm of the gradient {grad_norm}"
        examples = self.data.describe_batch(step - 1)
        what += f" on {examples}" if examples else ""
        kept = self._keep(step, examples)
        if self.policy == "stop":
            raise UserError(
                f"Training stopped at {what}; {kept}. To continue, lower "
                "--config.optimizer.learning_rate with --config.accept_changes, or skip such steps "
                "with --config.on_nonfinite=skip."
            )
        if self.in_row > self.max_in_row:
            raise UserError(
                f"Training stopped at {what}, after {self.max_in_row} skipped steps in a row; "
                f"{kept}. To continue, lower the learning rate."
            )
        print_once(f"Skipped {what}; {kept}.")
        return False

    def _keep(self, step: int, examples: str) -> str:
        """Reads the batch of a step again, writes it, and says where."""
        folder = epath.Path(self.workdir) / FOLDER
        try:
            folder.mkdir(exist_ok=True)
            process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
            path = folder / f"step_{step}{process}.npz"
            if not path.exists() and len(list(folder.iterdir())) >= _KEPT:
                return f"{folder} is full, so its batch is not kept"
            with replacing(path) as temporary, temporary.open("wb") as file:
                batch = batch_of(self.data, step)
                np.savez_compressed(file, step=step, samples=examples, **batch)
        except (OSError, UserError) as error:
            return f"its batch cannot be kept ({error})"
        return f"its batch is in {os.fspath(path)} for --replay"


def batch_of(data: TrainingData, step: int) -> Any:
    """The batch of a training's step, counted from 1."""
    with closing(read_batches(data.train_batches(step - 1))) as batches:
        return next(batches)


def read_batch(path: str | os.PathLike, fields: Iterable[str]) -> tuple[dict[str, Any], int, str]:
    """Reads a batch with these fields that was kept, its step, and the names of its examples.

    Nothing in the file is executed.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with epath.Path(path).open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays: dict[str, Any] = {name: kept[name] for name in kept.files}
        step, examples = int(arrays.pop("step")), str(arrays.pop("samples"))
        return {name: arrays[name] for name in sorted(fields)}, step, examples
    except Exception as error:
        raise UserError(
            f"{path} is not a batch that a training kept ({error}); name a file of its folder "
            f"{FOLDER}."
        ) from error

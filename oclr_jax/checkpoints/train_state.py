"""Resumable training states on disk, by orbax; the one place that knows its interface."""

import os
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from oclr_jax.errors import UserError


class TrainStates:
    """The newest states of a training, by step, in a folder (local or `gs://`).

    A state that was being written when the program was killed is not among them.
    """

    def __init__(self, folder: str | os.PathLike, keep: int):
        """Opens or makes `folder`; the newest `keep` states stay."""
        policy = ocp.checkpoint_managers.LatestN(keep)
        # Saves wait for the disk: the next step gives the state's buffers away.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(epath.Path(folder).absolute(), options=options)

    def latest_step(self) -> int | None:
        """The newest step that was saved, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes a pytree of arrays as the state after `step` steps; again is nothing."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """Reads the state of a step.

        Args:
          like: a state with the tree, shapes, dtypes and shardings that are expected.

        Raises:
          UserError: the state on disk is damaged, or of another model or optimizer.
        """
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(target))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"The training state of step {step} in {self._manager.directory} cannot be read "
                f"with this configuration ({str(error).splitlines()[0]}); train in a new workdir, "
                "or delete that state to go on from the one before."
            ) from error

    def close(self) -> None:
        self._manager.close()

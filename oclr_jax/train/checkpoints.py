"""Training states on disk, by orbax; the only module that knows its interface."""

import os
import shutil
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from oclr_jax.errors import UserError

# Where unreadable checkpoints are moved to, beside the folder of the checkpoints.
UNREADABLE = "unreadable_states"
# Version of the tree of arrays in a checkpoint.
FORMAT = 2
_CHECKSUMS, _SCORE, _FORMAT = "checksums", "score", "format"


class OtherVersionError(UserError):
    """The checkpoints were written by another version of this program."""


class Checkpoints:
    """Checkpoints of a training by step, in a folder (local or `gs://`): the newest and the best.

    A checkpoint is complete or absent, whenever the program is killed. It is written while the
    training continues, from a copy, because the next step reuses the state's memory. Checksums of
    the values are stored with it: orbax notices missing and truncated files, but not every wrong
    byte.
    """

    def __init__(self, folder: str | os.PathLike, keep: int, keep_best: int = 0):
        """Opens or creates `folder`, and removes unfinished checkpoints of killed programs.

        Args:
          keep: number of newest checkpoints to keep, at least 1.
          keep_best: number of those with the best scores to keep as well.
        """
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(keep, keep_best, self._score),
            # Otherwise one damaged file of any checkpoint would keep the folder from being opened.
            lightweight_initialize=True,
        )
        folder = _absolute(folder)
        if jax.process_index() == 0:
            # Orbax would do this while it already writes the next checkpoint.
            for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
                unfinished.rmtree()
        # Without it orbax guesses from the newest checkpoint, damaged or not, what is stored.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(folder, item_handlers=handler, options=options)
        self._scores: dict[int, float | None] = {}

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, readable or not, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Starts to write a pytree of arrays as the state after `step` steps.

        Does nothing where there is a checkpoint of that step.

        Args:
          score: higher is better; checkpoints without a score are not among the best.

        Raises:
          UserError: this checkpoint, or the one before, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        # On a CPU, numpy would share the buffers that the next step writes to.
        state = jax.tree.map(np.array, state)
        notes = {_CHECKSUMS: _checksums(state), _SCORE: score, _FORMAT: FORMAT}
        self._scores[step] = score
        self._check_free_space(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=notes)
        except Exception as error:  # The file system, tensorstore and orbax have their own.
            raise self._write_error(error) from error

    def restore_newest(self, like: Any, before: int | None = None) -> Any | None:
        """Restores the newest readable state; None where there is no checkpoint.

        Newer checkpoints that cannot be read are named on standard error and moved aside, so that
        the training can write them again.

        Args:
          like: a state with the expected tree, shapes, dtypes and shardings.
          before: consider only checkpoints of earlier steps.

        Raises:
          UserError: there are checkpoints, and none can be read.
        """
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        steps = sorted(self._manager.all_steps(), reverse=True)
        steps = [step for step in steps if before is None or step < before]
        reasons: dict[int, str] = {}
        for step in steps:
            notes = _notes(self._manager, step)
            _check_format(notes, self._manager.directory)
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(target))
                _compare(state, notes)
            except Exception as error:  # Every layer below has its own for damaged files.
                reasons[step] = _first_line(error)
                continue
            self._set_aside(reasons, step)
            return state
        if not steps:
            return None
        raise UserError(
            f"None of the checkpoints in {self._manager.directory} (steps {steps}) can be read "
            f"with this configuration ({reasons[steps[0]]}); put a copy of one there, or train in "
            "a new workdir."
        )

    def close(self) -> None:
        """Waits for the last checkpoint; raises UserError where it cannot be written."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error
        finally:
            self._manager.close()

    def _score(self, step: int) -> float | None:
        if step not in self._scores:
            self._scores[step] = _notes(self._manager, step).get(_SCORE)
        return self._scores[step]

    def _set_aside(self, reasons: dict[int, str], used: int) -> None:
        """Moves unreadable checkpoints, by step, away from the one that is used."""
        if not reasons:
            return
        folder = self._manager.directory
        if jax.process_index() == 0:
            aside = folder.parent / UNREADABLE
            aside.mkdir(exist_ok=True)
            for step, reason in reasons.items():
                place = aside / str(step)
                if place.exists():
                    place.rmtree()
                # In a bucket, a folder exists only with something in it.
                (aside / f"{step}.txt").write_text(f"{reason}\n")
                (folder / str(step)).rename(place)
                print(
                    f"The checkpoint of step {step} is damaged ({reason}) and was moved to {place};"
                    f" the training resumes from that of step {used}.",
                    file=sys.stderr,
                )
        multihost_utils.sync_global_devices("unreadable checkpoints are moved")
        self._manager.reload()

    def _check_free_space(self, size: int) -> None:
        """Raises UserError where a state of `size` bytes does not fit; orbax is less clear."""
        folder = os.fspath(self._manager.directory)
        if "://" not in folder and shutil.disk_usage(folder).free < 2 * size:
            raise self._write_error(OSError(f"it takes up to {2 * size / 1e6:.0f} MB"))

    def _write_error(self, error: Exception) -> UserError:
        return UserError(
            f"A checkpoint cannot be written to {self._manager.directory} "
            f"({_first_line(error)}); make room there and give the same command again: the "
            "checkpoints before it are complete."
        )


def load_checkpoint_variables(folder: str | os.PathLike) -> tuple[dict[str, Any], int]:
    """Reads parameters and model state of the newest checkpoint in the folder of a `Checkpoints`.

    Where the training keeps a moving average of the parameters, which it evaluates, that is read.

    Returns:
      {"params": nested dict of numpy arrays, "model_state": pytree of them}, and their step.

    Raises:
      UserError: there is no checkpoint, or none that can be read.
    """
    manager = ocp.CheckpointManager(
        _absolute(folder),
        item_handlers=ocp.PyTreeCheckpointHandler(),
        options=ocp.CheckpointManagerOptions(create=False, lightweight_initialize=True),
    )
    try:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return _variables_of(manager, step), step
            except OtherVersionError:
                raise
            except Exception as error:
                print(
                    f"The parameters of step {step} in {folder} cannot be read "
                    f"({_first_line(error)}); those of the checkpoint before are used.",
                    file=sys.stderr,
                )
    finally:
        manager.close()
    raise UserError(f"There is no readable checkpoint in {folder}; name another folder.")


def _variables_of(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    notes = _notes(manager, step)
    _check_format(notes, manager.directory)
    stored = manager.item_metadata(step).tree
    params = "ema_params" if stored.get("ema_params") else "params"
    wanted = {name: stored[name] for name in (params, "model_state") if stored.get(name)}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    restored = manager.restore(
        step,
        args=ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True),
    )
    _compare(restored, notes)
    return {"params": restored[params], "model_state": restored.get("model_state", {})}


def _check_format(notes: dict[str, Any], folder: epath.Path) -> None:
    """Raises OtherVersionError for a checkpoint, by its notes, of another version."""
    if notes and notes.get(_FORMAT) != FORMAT:
        raise OtherVersionError(
            f"The checkpoints in {folder} were written by another version of this program and "
            "cannot be read; finish that training with the version that began it, or train in a "
            "new workdir."
        )


@dataclass
class _NewestAndBest:
    """Which checkpoints to keep: orbax's preservation policy."""

    newest: int
    best: int
    score: Callable[[int], float | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each checkpoint, in the order of their steps."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        scored = [step for step in steps if self.best and self.score(step) is not None]
        best = sorted(scored, key=self.score)[-self.best :] if scored else []
        return [step in steps[-self.newest :] or step in best for step in steps]


def _absolute(folder: str | os.PathLike) -> epath.Path:
    """The folder as orbax takes it; `epath` considers one in a bucket relative."""
    path = epath.Path(folder)
    return path if "://" in os.fspath(path) else path.absolute()


def _notes(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What `save` stored with a state; {} where that cannot be read."""
    try:
        return dict(manager.metadata(step).custom_metadata or {})
    except Exception:
        return {}


def _checksums(state: Any) -> dict[str, int]:
    """CRC-32 of the names and values of all arrays, for each field of a state."""
    sums: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        field = name.split("/")[0]
        value = zlib.crc32(name.encode(), sums.get(field, 0))
        sums[field] = zlib.crc32(np.ascontiguousarray(leaf).data, value)
    return sums


def _compare(state: Any, notes: dict[str, Any]) -> None:
    """Raises ValueError where a field of a state differs from its checksum, or has none."""
    if _CHECKSUMS not in notes:
        raise ValueError("its checksums are missing")
    for field, value in _checksums(state).items():
        if notes[_CHECKSUMS].get(field) != value:
            raise ValueError(f"the values of {field} do not match their checksum")


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:200]

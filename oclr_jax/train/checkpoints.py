"""Resumable training states on disk, by orbax; the one place that knows its interface."""

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

# Where states that cannot be read go, beside the folder of the states.
UNREADABLE = "unreadable_states"
_CHECKSUMS, _SCORE = "checksums", "score"


class TrainStates:
    """States of a training by step, in a folder (local or `gs://`): the newest and the best.

    A state is whole or absent, whenever the program is killed. It is written while the training
    goes on, from a copy, because the next step gives the state's buffers away. Beside it stand
    checksums of its values: orbax notices files that are gone or cut off, but not every wrong byte.
    """

    def __init__(self, folder: str | os.PathLike, keep: int, keep_best: int = 0):
        """Opens or makes `folder`; the newest `keep` states stay, and the `keep_best` best scored.

        What killed programs left unfinished there is removed.
        """
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_NewestAndBest(keep, keep_best, self._score),
            # Else one damaged file of any state would keep the folder from being opened.
            lightweight_initialize=True,
        )
        folder = _absolute(folder)
        if jax.process_index() == 0:
            # Orbax would do so while it already writes the next state.
            for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
                unfinished.rmtree()
        # Without it orbax guesses from the newest state, damaged or not, what is stored.
        handler = ocp.StandardCheckpointHandler()
        self._manager = ocp.CheckpointManager(folder, item_handlers=handler, options=options)
        self._scores: dict[int, float | None] = {}

    def latest_step(self) -> int | None:
        """The newest step of which there is a state, readable or not, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, score: float | None = None) -> None:
        """Begins to write a pytree of arrays as the state after `step` steps; again is nothing.

        Args:
          score: the higher the better; states without one are not among the best.

        Raises:
          UserError: this state, or the one before, cannot be written.
        """
        if step in self._manager.all_steps():
            return
        # On a CPU, numpy would look into the very buffers that the next step writes to.
        state = jax.tree.map(np.array, state)
        notes = {_CHECKSUMS: _checksums(state), _SCORE: score}
        self._scores[step] = score
        self._check_room(sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=notes)
        except Exception as error:  # the file system's, tensorstore's or orbax's own
            raise self._unwritable(error) from error

    def restore_newest(self, like: Any, before: int | None = None) -> Any | None:
        """The newest state that can be read, or None where there is none at all.

        Newer ones that cannot be read are named on standard error and moved aside, so that the
        training can write them again.

        Args:
          like: a state with the tree, shapes, dtypes and shardings that are expected.
          before: only states of smaller steps count.

        Raises:
          UserError: there are states, and none can be read.
        """
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        steps = sorted(self._manager.all_steps(), reverse=True)
        steps = [step for step in steps if before is None or step < before]
        reasons: dict[int, str] = {}
        for step in steps:
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(target))
                _compare(state, _notes(self._manager, step))
            except Exception as error:  # every layer below has its own for damaged files
                reasons[step] = _first_line(error)
                continue
            self._set_aside(reasons, step)
            return state
        if not steps:
            return None
        raise UserError(
            f"None of the training states in {self._manager.directory} (steps {steps}) can be read "
            f"with this configuration ({reasons[steps[0]]}); put a copy of one there, or train in "
            "a new workdir."
        )

    def close(self) -> None:
        """Waits for the last state to be written; raises UserError where it cannot be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritable(error) from error
        finally:
            self._manager.close()

    def _score(self, step: int) -> float | None:
        if step not in self._scores:
            self._scores[step] = _notes(self._manager, step).get(_SCORE)
        return self._scores[step]

    def _set_aside(self, reasons: dict[int, str], used: int) -> None:
        """Moves unreadable states, by step, out of the way of the one that is used."""
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
                # In a bucket, a folder is there only with something in it.
                (aside / f"{step}.txt").write_text(f"{reason}\n")
                (folder / str(step)).rename(place)
                print(
                    f"The training state of step {step} is damaged ({reason}) and now in {place}; "
                    f"the training goes on from that of step {used}.",
                    file=sys.stderr,
                )
        multihost_utils.sync_global_devices("unreadable states are moved")
        self._manager.reload()

    def _check_room(self, size: int) -> None:
        """Raises UserError where a state of `size` bytes has no room; orbax is less clear."""
        folder = os.fspath(self._manager.directory)
        if "://" not in folder and shutil.disk_usage(folder).free < 2 * size:
            raise self._unwritable(OSError(f"it takes up to {2 * size / 1e6:.0f} MB"))

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"A training state cannot be written to {self._manager.directory} "
            f"({_first_line(error)}); make room there and give the same command again: the states "
            "before are whole."
        )


def load_params(folder: str | os.PathLike) -> tuple[dict[str, Any], int]:
    """Reads only the parameters of the newest state in the folder of a `TrainStates`.

    Where the training keeps a moving average of them, as its evaluation uses it, that is read.

    Returns:
      nested dict of numpy arrays as they were trained, and their step.

    Raises:
      UserError: there is no state, or none whose parameters can be read.
    """
    manager = ocp.CheckpointManager(
        _absolute(folder),
        item_handlers=ocp.PyTreeCheckpointHandler(),
        options=ocp.CheckpointManagerOptions(create=False, lightweight_initialize=True),
    )
    try:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return _params_of(manager, step), step
            except Exception as error:
                print(
                    f"The parameters of step {step} in {folder} cannot be read "
                    f"({_first_line(error)}); those before are taken.",
                    file=sys.stderr,
                )
    finally:
        manager.close()
    raise UserError(f"There is no training state in {folder} that can be read; name another.")


def _params_of(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    stored = manager.item_metadata(step).tree
    name = "average" if stored.get("average") else "params"
    wanted = {name: stored[name]}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    restored = manager.restore(
        step,
        args=ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True),
    )
    _compare(restored, _notes(manager, step))
    return restored[name]


@dataclass
class _NewestAndBest:
    """Which states stay: orbax's preservation policy."""

    newest: int
    best: int
    score: Callable[[int], float | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One answer for each checkpoint; they come by step."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        scored = [step for step in steps if self.best and self.score(step) is not None]
        best = sorted(scored, key=self.score)[-self.best :] if scored else []
        return [step in steps[-self.newest :] or step in best for step in steps]


def _absolute(folder: str | os.PathLike) -> epath.Path:
    """As orbax wants a folder; `epath` would take one in a bucket for a relative one."""
    path = epath.Path(folder)
    return path if "://" in os.fspath(path) else path.absolute()


def _notes(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What `save` wrote beside a state; nothing where that cannot be read."""
    try:
        return dict(manager.metadata(step).custom_metadata or {})
    except Exception:
        return {}


def _checksums(state: Any) -> dict[str, int]:
    """CRC-32 of names and values of all arrays, for every field of a state."""
    sums: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        field = name.split("/")[0]
        value = zlib.crc32(name.encode(), sums.get(field, 0))
        sums[field] = zlib.crc32(np.ascontiguousarray(leaf).data, value)
    return sums


def _compare(state: Any, notes: dict[str, Any]) -> None:
    """Raises ValueError where a part of a state is not what was saved, or nobody can tell."""
    if _CHECKSUMS not in notes:
        raise ValueError("its checksums are gone")
    for field, value in _checksums(state).items():
        if notes[_CHECKSUMS].get(field) != value:
            raise ValueError(f"the values of {field} are not those that were saved")


def _first_line(error: BaseException) -> str:
    """What an error says, in one line; the cause where the error only points to it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")[:200]

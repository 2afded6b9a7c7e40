"""The processes of one training: how they find each other, and how they fail together."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np

# jax has no public interface to the key-value store that its processes share.
from jax._src import distributed
from jax.experimental import multihost_utils
from tqdm import tqdm

from oclr_jax.errors import UserError

# jax sets this variable on import where it finds TPU chips.
TPU_FOUND = "TPU_ML_PLATFORM"
# Keys of the store: the message of the first process that failed, and who is ready to exit.
_FAILURE, _READY = "oclr_jax/failure", "oclr_jax/ready_to_exit"
_Item = TypeVar("_Item")
_POLL_SECONDS, _PATIENCE_SECONDS = 0.5, 10.0


def join_processes(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects this process with the others of its training; call it before any use of jax.

    Without arguments the environment decides: one task of several under SLURM or Open MPI, or one
    host of a TPU slice, joins the others. Any other process stays alone.

    Args:
      coordinator: "host:port" of process 0, the same for all processes.
      processes: number of processes.
      process_id: index of this process, from 0.

    Raises:
      UserError: the arguments do not fit together, or the other processes cannot be reached.
    """
    given = (coordinator, processes, process_id)
    if any(value is not None for value in given):
        if None in given or not 0 <= process_id < processes:
            raise UserError(
                "Several processes need all of --coordinator=HOST:PORT, --processes=N and "
                "--process_id=0 to N-1."
            )
    elif not started_as_one_of_several(os.environ):
        return
    try:
        jax.distributed.initialize(coordinator, processes, process_id)
    except (ValueError, OSError, RuntimeError) as error:
        # A TPU without its cloud's metadata service, as in a notebook: this process is alone.
        if None in given and TPU_FOUND in os.environ and not isinstance(error, RuntimeError):
            return
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"The processes of this training could not connect ({reason}); check that all run the "
            "same command and that the address of process 0 can be reached."
        ) from error


def started_as_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether this process may be one of several that jax can find by itself.

    SLURM and Open MPI export the number of tasks. Only the services of a TPU slice know how many
    hosts it has, so on a TPU jax has to ask them.
    """
    counts = (environment.get(name) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return TPU_FOUND in environment or any(int(count or 1) > 1 for count in counts)


def is_lead() -> bool:
    """Whether this is process 0, the only one that prints, logs and exports."""
    return jax.process_index() == 0


def own_part(items: Sequence[_Item]) -> Sequence[_Item]:
    """Those of some items that this process takes care of."""
    return items[jax.process_index() :: jax.process_count()]


def wait_for_all(reached: str) -> None:
    """Waits until every process has come to this line; `reached` names it."""
    multihost_utils.sync_global_devices(reached)


def decided_by_lead(decision: bool) -> bool:
    """What process 0 decided, in every process: their clocks differ."""
    return bool(multihost_utils.broadcast_one_to_all(np.array(decision)))


def mean_over_processes(tree: Any, weight: int) -> Any:
    """The mean of a pytree of host arrays over all processes, weighted; the same in each."""
    if jax.process_count() == 1:
        return tree
    weights, trees = multihost_utils.process_allgather((np.float32(weight), tree))
    shares = weights / weights.sum()
    return jax.tree.map(lambda x: np.tensordot(shares, x, axes=1).astype(x.dtype), trees)


def print_once(text: str) -> None:
    """Prints a line above the progress bar, in process 0 only."""
    if is_lead():
        tqdm.write(text)


@contextmanager
def failing_together() -> Iterator[None]:
    """Ends all processes of a training when one of them fails inside the block.

    The other processes may be waiting for the failed one in a collective operation, which nothing
    can interrupt. A thread of each process therefore watches for a failure, prints its message and
    exits with status 2. The failed process prints its own error and exits too: a normal exit would
    wait for the others. With a single process the error is raised as usual.
    """
    if jax.process_count() == 1:
        yield
        return
    # Whoever takes the lock ends the process; the other thread waits for that.
    ending, done = threading.Lock(), threading.Event()

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            message = _failure()
            if message is not None:
                ending.acquire()
                _exit_together(message, 2)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException as error:
        ending.acquire()
        message = _failure()
        if message is not None:  # This error may be a consequence of that one.
            _exit_together(message, 2)
        text, status = _describe(error)
        _announce(f"Process {jax.process_index()} of this training failed: {text}")
        _exit_together(text, status)
    finally:
        done.set()
        watcher.join()


def _describe(error: BaseException) -> tuple[str, int]:
    """The message and the exit status of an error."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted; the same command resumes from the last checkpoint.", 130
    return "".join(traceback.format_exception(error)).strip(), 1


def _failure() -> str | None:
    """The message of the process that failed, if any did."""
    try:
        return distributed.global_state.client.key_value_try_get(_FAILURE)
    except Exception:  # Not found; or process 0 is gone, which jax itself notices.
        return None


def _announce(message: str) -> None:
    try:
        distributed.global_state.client.key_value_set(_FAILURE, message)
    except Exception:  # Another process was faster; or process 0, which has the store, is gone.
        return


def _exit_together(message: str, status: int) -> None:
    """Prints a message and exits when all processes are ready to.

    A process that exits while another still waits for it would cause a second error there. Process
    0 exits last, because the others lose their connection with it.
    """
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    client, deadline = distributed.global_state.client, time.monotonic() + _PATIENCE_SECONDS
    try:
        client.key_value_set(f"{_READY}/{jax.process_index()}", "yes")
        for index in range(jax.process_count()):
            left = max(deadline - time.monotonic(), 0.001)
            client.blocking_key_value_get(f"{_READY}/{index}", int(1000 * left))
    except Exception:  # A process that does not answer in time is not waited for.
        pass
    if is_lead():
        time.sleep(2 * _POLL_SECONDS)
    os._exit(status)

"""Where the arrays of a training live: one mesh axis over the devices of all processes.

The state is whole on every device; a batch is split among them by clips. The same pure step runs in
one of two ways: `jit`, where the compiler sees the whole batch and adds the communication, or
`pmap`, where each device sees its own clips and the step says what is averaged.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from oclr_jax.errors import UserError
from oclr_jax.types import AnyBatch

# Name of the mesh's only axis, along which a batch is split.
AXIS = "data"
WAYS = ("jit", "pmap")
# jax sets it when it is imported where there are TPU chips.
TPU_FOUND = "TPU_ML_PLATFORM"


def join_processes(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects this process with the others of its training; before anything else asks jax.

    Without arguments the environment decides: one process of several under SLURM or Open MPI, or a
    host of a TPU slice, joins the others by itself; every other process stays alone.

    Args:
      coordinator: "host:port" of process 0, the same for all.
      processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      UserError: arguments that do not fit together, or the others cannot be reached.
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
        # A TPU without the services of its cloud, as a notebook has it: nobody else is there.
        if None in given and TPU_FOUND in os.environ and not isinstance(error, RuntimeError):
            return
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"The processes of this training did not find each other ({reason}); check that all "
            "run the same command and that the first one's address can be reached."
        ) from error


def started_as_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether this process may have others that jax knows how to find.

    SLURM and Open MPI say how many there are. A TPU slice may have one host or several, which only
    its services know; there jax asks them.
    """
    counts = (environment.get(name) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return TPU_FOUND in environment or any(int(count or 1) > 1 for count in counts)


def is_lead() -> bool:
    """Whether this is the one process that prints, logs and exports."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line above the progress bar, once for all processes."""
    if is_lead():
        tqdm.write(text)


def check_batch(batch_size: int, accumulate: int) -> None:
    """Raises UserError where a batch cannot be split evenly among devices and microbatches."""
    devices = jax.device_count()
    if accumulate < 1 or batch_size < 1 or batch_size % (devices * accumulate):
        parts = f" x accumulate {accumulate}" if accumulate != 1 else ""
        raise UserError(
            f"A batch of {batch_size} clips cannot be split evenly among {devices} devices{parts}; "
            f"choose a batch_size that is a multiple of {devices * max(accumulate, 1)}."
        )


@dataclass(frozen=True)
class Devices:
    """All devices of a training, and the way in which a step runs on them."""

    mesh: Mesh
    parallel: str

    def __str__(self) -> str:
        """For example "cpu", or "8 gpu devices (jit)"."""
        kind, count = self.mesh.devices.flat[0].platform, self.mesh.size
        return kind if count == 1 else f"{count} {kind} devices ({self.parallel})"

    @property
    def axis_name(self) -> str | None:
        """What the step averages over by itself: the mapped axis, or nothing under `jit`."""
        return AXIS if self.parallel == "pmap" else None

    def replicate(self, tree: Any) -> Any:
        """Host values, the same in every process, as arrays that are whole on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def shard(self, batch: AnyBatch) -> dict[str, jax.Array]:
        """This process's clips of a batch, on the way to its devices.

        The processes' clips, in their order, are the whole batch.
        """
        split = PartitionSpec(AXIS)
        if self.parallel == "jit":
            sharding = NamedSharding(self.mesh, split)
            return {
                name: jax.make_array_from_process_local_data(sharding, value)
                for name, value in batch.items()
            }
        local = self.mesh.local_mesh
        batch = {n: x.reshape(local.size, -1, *x.shape[1:]) for n, x in batch.items()}
        return jax.device_put(batch, NamedSharding(local, split))

    def compile(self, step: Callable) -> Callable:
        """A pure step (state, batch) -> (state, metrics), compiled to run on all devices.

        It takes and gives a state as `replicate` makes it, whose memory it uses again, and takes a
        batch as `shard` makes it.
        """
        whole = NamedSharding(self.mesh, PartitionSpec())
        if self.parallel == "jit":
            return jax.jit(step, donate_argnums=0, out_shardings=whole)
        # The state has no axis of devices: all have the same, before and after.
        mapped = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=list(self.mesh.devices.flat),
        )

        if jax.process_count() == 1:
            return mapped

        def as_whole(array: jax.Array) -> jax.Array:
            """pmap of several processes gives each its own copies alone; the same, as one array."""
            copies = [shard.data for shard in array.addressable_shards]
            return jax.make_array_from_single_device_arrays(array.shape, whole, copies)

        return lambda state, batch: jax.tree.map(as_whole, mapped(state, batch))


def open_devices(parallel: str, batch_size: int, accumulate: int) -> Devices:
    """All devices of all processes, in the order of the processes.

    Raises:
      UserError: no such way to run a step, or a batch that cannot be split evenly.
    """
    if parallel not in WAYS:
        raise UserError(f"There is no parallel={parallel!r}; choose one of {', '.join(WAYS)}.")
    check_batch(batch_size, accumulate)
    # So that the clips of a process are a run of the batch.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Devices(Mesh(np.array(ordered), (AXIS,)), parallel)


def on_this_process(tree: Any) -> Any:
    """The copy of replicated arrays that lies on this process's first device."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def add_up(sums: dict[str, float]) -> dict[str, float]:
    """The sums of all processes together; each calls this with the same names."""
    totals = multihost_utils.process_allgather(np.array(list(sums.values()), np.float32))
    return dict(zip(sums, totals.reshape(-1, len(sums)).sum(axis=0).tolist(), strict=True))

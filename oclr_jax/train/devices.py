"""Placement of a training's arrays: one mesh axis over the devices of all processes.

The state is replicated on every device; a batch is split among the devices by examples. Each device
sees its own examples, and the step averages over the devices explicitly: gradients once, in
float32. (Where the compiler inserts the communication, it sums bfloat16 gradients as bfloat16.) The
same pure step is compiled in one of two modes, `jax.jit` of a `jax.shard_map`, or `jax.pmap`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from oclr_jax.errors import UserError

# Name of the mesh's only axis, along which a batch is split.
AXIS = "data"
PARALLEL_MODES = ("jit", "pmap")
# Flags of the TPU compiler. Without them it exchanges all gradients at once, after the backward
# pass; with them those of large arrays one by one while the backward pass goes on. Only an exchange
# of a single array can run beside other work, and most arrays have just over a million bytes.
_TPU_FLAGS = {
    "xla_jf_crs_combiner_threshold_in_bytes": "1000000",
    "xla_enable_async_all_reduce": "true",
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": "true",
}


def overlap_exchanges() -> None:
    """Sets `_TPU_FLAGS`, except those that the environment has; call it before any use of jax."""
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    flags = [f"--{name}={value}" for name, value in _TPU_FLAGS.items() if f"--{name}=" not in given]
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([*given.split(), *flags])


def check_batch(batch_size: int, accumulate: int) -> None:
    """Raises UserError where a batch cannot be split evenly among devices and microbatches."""
    devices = jax.device_count()
    if accumulate < 1 or batch_size < 1 or batch_size % (devices * accumulate):
        parts = f" x accumulate {accumulate}" if accumulate != 1 else ""
        raise UserError(
            f"A batch of {batch_size} examples cannot be split evenly among {devices} devices"
            f"{parts}; choose a batch_size that is a multiple of {devices * max(accumulate, 1)}."
        )


@dataclass(frozen=True)
class Devices:
    """The devices of a training and the mode (`PARALLEL_MODES`) in which a step runs on them."""

    mesh: Mesh
    parallel: str

    def __str__(self) -> str:
        """For example "cpu", or "8 gpu devices (jit)"."""
        kind, count = self.platform, self.mesh.size
        return kind if count == 1 else f"{count} {kind} devices ({self.parallel})"

    @property
    def platform(self) -> str:
        """Kind of the devices: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    def replicate(self, tree: Any) -> Any:
        """Puts host values, the same in every process, whole on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def shard(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Starts to send this process's examples of a batch to its devices.

        The examples of all processes, in the order of the processes, are the whole batch.
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
        """Compiles a pure step (state, frozen, batch) -> (state, metrics) for all devices.

        The step gets the examples of one device, and averages over the axis `AXIS`.
        The compiled step takes a state and frozen parameters as `replicate` returns them and a
        batch as `shard` returns it. It reuses the memory of the state.
        """
        whole = NamedSharding(self.mesh, PartitionSpec())
        if self.parallel == "jit":
            split = jax.shard_map(
                step,
                mesh=self.mesh,
                in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
                out_specs=PartitionSpec(),
                # Replicated parameters have local gradients, as under pmap.
                check_vma=False,
            )
            return jax.jit(split, donate_argnums=0, out_shardings=whole)
        # The state has no device axis: it is the same on all devices, before and after.
        mapped = jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            donate_argnums=0,
            devices=list(self.mesh.devices.flat),
        )

        if jax.process_count() == 1:
            return mapped

        def as_whole(array: jax.Array) -> jax.Array:
            """pmap returns only this process's copies; makes one global array of them."""
            copies = [shard.data for shard in array.addressable_shards]
            return jax.make_array_from_single_device_arrays(array.shape, whole, copies)

        return lambda *arguments: jax.tree.map(as_whole, mapped(*arguments))


def open_devices(parallel: str, batch_size: int, accumulate: int) -> Devices:
    """All devices of all processes, in the order of the processes.

    Raises:
      UserError: unknown parallel mode, or the batch cannot be split evenly.
    """
    if parallel not in PARALLEL_MODES:
        modes = ", ".join(PARALLEL_MODES)
        raise UserError(f"There is no parallel={parallel!r}; choose one of {modes}.")
    check_batch(batch_size, accumulate)
    return all_devices(parallel)


def all_devices(parallel: str = "jit") -> Devices:
    """All devices of all processes, in the order of the processes."""
    # Sorted, so that the examples of a process are contiguous in the batch.
    ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Devices(Mesh(np.array(ordered), (AXIS,)), parallel)


def one_device() -> Devices:
    """The first device of this process alone."""
    return Devices(Mesh(np.array(jax.local_devices()[:1]), (AXIS,)), "jit")


def on_this_process(tree: Any) -> Any:
    """The copy of replicated arrays on this process's first device."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def sum_over_processes(sums: dict[str, float]) -> dict[str, float]:
    """Adds up named sums over all processes; each calls this with the same names."""
    totals = multihost_utils.process_allgather(np.array(list(sums.values()), np.float32))
    return dict(zip(sums, totals.reshape(-1, len(sums)).sum(axis=0).tolist(), strict=True))

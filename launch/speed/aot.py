"""`python launch/benchmark.py aot`: programs compiled for TPUs and GPUs, on a machine without one.

`--topology v5e:2x2 v5e:4x4` names the chips to compile for; `pip install '.[data,aot]'` installs
the compiler for TPUs, `pip install jax-cuda12-pjrt` that for GPUs (`h100:8`), which counts no
FLOPs. Every figure is the compiler's count for one chip and one step, none a measured time:

  arguments, temporaries   GiB in the chip's memory
  TFLOP                    arithmetic, as XLA counts it: of a loop (`--accumulate`) one round
  GB accessed              operands and results of all operations, also those in on-chip memory,
                           of a loop one round
  GB in main memory        of these, what lies in the chip's main memory, with padding to tiles
  arithmetic, memory (ms)  these counts over the chip's published peaks; the larger one bounds the
                           step from below
  collectives, MB          number and size of the exchanges between chips; of these MB, those
                           that are exchanged while the chip computes

A second table has the most clips that fit each chip, for programs of which the first has two sizes:
on the line through both. An existing file of `--json` keeps its other rows.

With `--compare FILE`, a JSON of `--json`, the exit status is 1 where a program moves, exchanges or
holds over 2% more than it did. launch/speed/aot.json has the paper's training step.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from launch.speed.aot_models import open_model
from launch.speed.hlo import Program
from launch.speed.measure import add_model_arguments, report
from oclr_jax.errors import UserError
from oclr_jax.models.layers.folding import TPU_LANES
from oclr_jax.train.devices import AXIS, Devices, overlap_exchanges
from oclr_jax.train.fit import compile_step
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import init_state


class Chip(NamedTuple):
    """Published peaks of a chip: TFLOP/s in bfloat16, GB/s and GB of its main memory."""

    tflops: float
    gigabytes_per_second: float
    gigabytes: float


CHIPS = {
    "v4": Chip(275, 1228, 32),
    "v5e": Chip(197, 819, 16),
    "v5p": Chip(459, 2765, 95),
    "v6e": Chip(918, 1640, 32),
    "h100": Chip(989, 3352, 80),
}
_GPUS = ("h100",)
# What the compiler asks a GPU for, as the driver of an H100 SXM answers.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
PROGRAMS = ("train", "train_pmap", "evaluate", "infer")
# Growth of memory or traffic that `--compare` reports.
_TOLERANCE = 1.02
_COMPARED = ("arguments", "temporaries", "GB accessed", "GB in main memory", "MB exchanged")
_STEPS = 600_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `aot`."""
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    add_model_arguments(parser)
    parser.set_defaults(dtype="bfloat16")
    parser.add_argument(
        "--topology", nargs="+", default=["v5e:2x2"], metavar="CHIP:GRID", help="such as v5p:2x2x1"
    )
    parser.add_argument(
        "--model", default="oclr", help="oclr, selector or corrector, with variants after a colon"
    )
    parser.add_argument("--accumulate", type=int, default=1, help="parts of the clips of a chip")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["train"])
    parser.add_argument("--largest", type=int, default=0, help="print so many large operations")
    parser.add_argument("--compare", type=Path, help="JSON of an earlier run")


def main(options: argparse.Namespace) -> None:
    """Prints the counts of every program and topology."""
    if options.accumulate < 1 or options.batch_size % options.accumulate:
        raise UserError(
            f"{options.batch_size} clips cannot be split into {options.accumulate} equal parts; "
            "choose an --accumulate that divides --batch_size."
        )
    rows = {}
    for topology in options.topology:
        chips = open_topology(topology)
        for name in options.programs:
            print(f"compiling {name} for {len(chips)} chips of {topology}", file=sys.stderr)
            start = time.perf_counter()
            compiled = compile_for(topology, lower(name, chips, options), options.batch_size)
            seconds = time.perf_counter() - start
            program = Program(compiled.as_text())
            figures = count(compiled, program, CHIPS[topology.partition(":")[0]])
            what = name if options.model == "oclr" else f"{options.model} {name}"
            if options.accumulate > 1 and name.startswith("train"):
                what += f" in {options.accumulate} parts"
            rows[f"{what}, {topology}, {options.batch_size} per chip"] = {
                "seconds to compile": seconds,
                **figures,
            }
            for moved in program.traffic()[: options.largest]:
                print(f"  {moved.bytes / 1e9:8.3f} GB  {moved.kind} {moved.name}  {moved.source}")
    before = json.loads(options.compare.read_text())["rows"] if options.compare else {}
    grown = compare(rows, before)
    if options.json and options.json.exists():
        rows = json.loads(options.json.read_text())["rows"] | rows
    report(rows, options)
    print("\n".join(fitting(rows)))
    if grown:
        print("\n".join(grown))
        sys.exit(1)


def compile_for(topology: str, lowered: jax.stages.Lowered, clips: int) -> jax.stages.Compiled:
    """Compiles a program for `clips` per chip.

    Raises:
      UserError: it does not fit the memory of the chip.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        first = str(error).partition("\n")[0]
        if not first.startswith("RESOURCE_EXHAUSTED"):
            raise
        raise UserError(
            f"{clips} clips per chip do not fit the memory of {topology} ({first}); choose a "
            "smaller --batch_size, or --accumulate."
        ) from error


def fitting(rows: dict[str, dict[str, float]]) -> list[str]:
    """A table of the most clips per chip that fit each kind of chip.

    For every program and topology that is compiled for two numbers of clips: the memory of other
    numbers lies on the line through these two. All TPUs are taken to need as much, but not GPUs.
    """
    sizes: dict[str, dict[int, float]] = {}
    for name, figures in rows.items():
        program, clips = re.fullmatch(r"(.*), (\d+) per chip", name).groups()
        needed = figures["arguments"] + figures["temporaries"]
        sizes.setdefault(program, {})[int(clips)] = needed * 2**30 / 1e9
    lines = []
    for program, needed in sizes.items():
        few, many = min(needed), max(needed)
        if few == many:
            continue
        each = (needed[many] - needed[few]) / (many - few)
        kind = program.rpartition(", ")[2].partition(":")[0]
        fit = (
            str(max(int(few + (chip.gigabytes - needed[few]) // each), 0))
            if (name in _GPUS) == (kind in _GPUS)
            else ""
            for name, chip in CHIPS.items()
        )
        lines.append(f"| {program} | {' | '.join(fit)} |")
    if lines:
        chips = (f"{name}, {chip.gigabytes} GB" for name, chip in CHIPS.items())
        head = f"| most clips per chip | {' | '.join(chips)} |"
        lines = ["", head, f"|{'---|' * (len(CHIPS) + 1)}", *lines]
    return lines


def open_topology(name: str) -> list[Any]:
    """The chips of a topology, to compile for.

    Raises:
      UserError: the compiler is not installed, or there is no such topology.
    """
    kind, _, grid = name.partition(":")
    if kind not in CHIPS:
        raise UserError(f"There is no chip {kind!r}; choose one of {', '.join(CHIPS)}.")
    # Without it the compiler asks the network which machine it runs on.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    overlap_exchanges()
    # Nothing runs; without it jax looks for a TPU in this machine.
    jax.config.update("jax_platforms", "cpu")
    # A program for other chips can be written to the cache of compiled programs, but not read.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        if kind in _GPUS:
            # One process on one machine with so many GPUs.
            target = {"target_config": _H100, "topology": f"1x1x{int(grid)}"}
            return topologies.get_topology_desc(platform="cuda", topology_name="", **target).devices
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # jax raises many kinds, with the compiler's text
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"Nothing can be compiled for {name} ({reason}); install the compiler with "
            "pip install '.[aot]', for GPUs jax-cuda12-pjrt, and name a topology such as v5e:2x2, "
            "v5p:2x2x1 or h100:8."
        ) from None


def lower(program: str, chips: list[Any], options: argparse.Namespace) -> jax.stages.Lowered:
    """One of `PROGRAMS`, traced: training on all chips, the others on the first one."""
    lanes = TPU_LANES if chips[0].platform == "tpu" else 1
    task, frozen, fields, infer = open_model(options.model, lanes, options)
    clips = options.batch_size
    variables = jax.eval_shape(lambda: task.init_variables(0))._replace(frozen=frozen)
    if program in ("evaluate", "infer"):
        place = NamedSharding(Mesh(np.array(chips[:1]), (AXIS,)), PartitionSpec())
        variables, batch = _placed((variables, _batch(fields, (clips,))), place)
        run = infer if program == "infer" else task.evaluate
        return jax.jit(run).lower(variables, batch)

    devices = Devices(Mesh(np.array(chips), (AXIS,)), "pmap" if program == "train_pmap" else "jit")
    optimizer = OptimizerConfig()
    state = jax.eval_shape(
        lambda: init_state(task.init_variables(0), make_optimizer(optimizer, _STEPS), ema=False)
    )
    parts = options.accumulate
    step = compile_step(task, optimizer, _STEPS, devices, seed=0, accumulate=parts)
    if devices.parallel == "pmap":
        return step.lower(state, variables.frozen, _batch(fields, (len(chips), clips)))
    batch = _batch(fields, (len(chips) * clips,))
    whole = NamedSharding(devices.mesh, PartitionSpec())
    state, frozen = _placed((state, variables.frozen), whole)
    batch = _placed(batch, NamedSharding(devices.mesh, PartitionSpec(AXIS)))
    return step.lower(state, frozen, batch)


def count(compiled: jax.stages.Compiled, program: Program, chip: Chip) -> dict[str, float]:
    """The figures of one compiled program; see the documentation of the file."""
    memory = compiled.memory_analysis()
    counted = {}
    if cost := compiled.cost_analysis():  # the GPU compiler counts no operations
        tera = cost["flops"] / 1e12
        counted = {
            "TFLOP": tera,
            "GB accessed": cost["bytes accessed"] / 1e9,
            "arithmetic (ms)": 1e3 * tera / chip.tflops,
        }
    moved = sum(each.bytes for each in program.traffic()) / 1e9
    exchanges = program.collectives().values()
    return {
        "arguments": memory.argument_size_in_bytes / 2**30,
        "temporaries": memory.temp_size_in_bytes / 2**30,
        **counted,
        "GB in main memory": moved,
        "memory (ms)": 1e3 * moved / chip.gigabytes_per_second,
        "collectives": sum(number for number, _ in exchanges),
        "MB exchanged": sum(size for _, size in exchanges) / 1e6,
        "MB overlapped": program.overlapped() / 1e6,
    }


def compare(rows: dict[str, dict[str, float]], before: dict[str, dict[str, float]]) -> list[str]:
    """A sentence for every figure of a program that has grown since `before`."""
    return [
        f"{name}: {figure} {old:.3f} -> {rows[name][figure]:.3f}"
        for name, figures in before.items()
        if name in rows
        for figure, old in figures.items()
        if figure in _COMPARED and rows[name][figure] > _TOLERANCE * old
    ]


def _batch(fields: dict[str, tuple], lead: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct((*lead, *shape), dtype)
        for name, (shape, dtype) in fields.items()
    }


def _placed(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

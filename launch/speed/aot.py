"""`python launch/benchmark.py aot`: programs compiled for TPUs, on a machine without one.

`--topology v5e:2x2 v5e:4x4` names the chips to compile for; `pip install '.[aot]'` installs their
compiler. Every figure is the compiler's count for one chip and one step, none a measured time:

  arguments, temporaries   GiB in the chip's memory
  TFLOP                    arithmetic, as XLA counts it
  GB accessed              operands and results of all operations, also those in on-chip memory
  GB in main memory        of these, what lies in the chip's main memory, with padding to tiles
  arithmetic, memory (ms)  these counts over the chip's published peaks; the larger one bounds the
                           step from below
  collectives, MB          number and size of the exchanges between chips

With `--compare FILE`, a JSON of `--json`, the exit status is 1 where a program moves, exchanges or
holds over 2% more than it did. launch/speed/aot.json has the paper's training step.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from launch.speed.hlo import Program
from launch.speed.measure import add_model_arguments, model_config, report
from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLR
from oclr_jax.oclr.predict import make_predict_fn
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.devices import AXIS, Devices
from oclr_jax.train.fit import compile_step
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import init_state
from oclr_jax.train.tasks.segmentation import Segmentation


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
}
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
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["train"])
    parser.add_argument("--largest", type=int, default=0, help="print so many large operations")
    parser.add_argument("--compare", type=Path, help="JSON of an earlier run")


def main(options: argparse.Namespace) -> None:
    """Prints the counts of every program and topology."""
    rows = {}
    for topology in options.topology:
        chips = open_topology(topology)
        for name in options.programs:
            print(f"compiling {name} for {len(chips)} chips of {topology}", file=sys.stderr)
            start = time.perf_counter()
            compiled = lower(name, chips, options).compile()
            seconds = time.perf_counter() - start
            program = Program(compiled.as_text())
            figures = count(compiled, program, CHIPS[topology.partition(":")[0]])
            rows[f"{name}, {topology}, {options.batch_size} per chip"] = {
                "seconds to compile": seconds,
                **figures,
            }
            for moved in program.traffic()[: options.largest]:
                print(f"  {moved.bytes / 1e9:8.3f} GB  {moved.kind} {moved.name}  {moved.source}")
    report(rows, options)
    if options.compare and (
        grown := compare(rows, json.loads(options.compare.read_text())["rows"])
    ):
        print("\n".join(grown))
        sys.exit(1)


def open_topology(name: str) -> list[Any]:
    """The chips of a topology, to compile for.

    Raises:
      UserError: the compiler is not installed, or there is no such topology.
    """
    kind = name.partition(":")[0]
    if kind not in CHIPS:
        raise UserError(f"There is no chip {kind!r}; choose one of {', '.join(CHIPS)}.")
    # Without it the compiler asks the network which machine it runs on.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Nothing runs; without it jax looks for a TPU in this machine.
    jax.config.update("jax_platforms", "cpu")
    # A program for other chips can be written to the cache of compiled programs, but not read.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # jax raises many kinds, with the compiler's text
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"Nothing can be compiled for {name} ({reason}); install the compiler with "
            "pip install '.[aot]', and name a topology such as v5e:2x2 or v5p:2x2x1."
        ) from None


def lower(program: str, chips: list[Any], options: argparse.Namespace) -> jax.stages.Lowered:
    """One of `PROGRAMS`, traced: training on all chips, the others on the first one."""
    model = OCLR(model_config(options))
    task = Segmentation(model, LossWeights())
    config, clips = model.config, options.batch_size
    variables = jax.eval_shape(lambda: task.init_variables(0))
    shape = (config.frames, config.height, config.width)
    fields = {
        "flow": ((*shape, 2 * len(config.gaps)), np.float32),
        "amodal": ((*shape, config.queries), np.uint8),
        "modal": ((*shape, config.queries), np.uint8),
    }
    if program in ("evaluate", "infer"):
        mesh = Mesh(np.array(chips[:1]), (AXIS,))
        place = NamedSharding(mesh, PartitionSpec())
        variables, batch = _placed((variables, _batch(fields, (clips,))), place)
        if program == "infer":
            return make_predict_fn(model).lower(variables.params, batch["flow"])
        return jax.jit(task.evaluate).lower(variables, batch)

    devices = Devices(Mesh(np.array(chips), (AXIS,)), "pmap" if program == "train_pmap" else "jit")
    optimizer = OptimizerConfig()
    state = jax.eval_shape(
        lambda: init_state(task.init_variables(0), make_optimizer(optimizer, _STEPS), ema=False)
    )
    step = compile_step(task, optimizer, _STEPS, devices, seed=0)
    if devices.parallel == "pmap":
        return step.lower(state, variables.frozen, _batch(fields, (len(chips), clips)))
    batch = _batch(fields, (len(chips) * clips,))
    state = _placed(state, NamedSharding(devices.mesh, PartitionSpec()))
    batch = _placed(batch, NamedSharding(devices.mesh, PartitionSpec(AXIS)))
    return step.lower(state, variables.frozen, batch)


def count(compiled: jax.stages.Compiled, program: Program, chip: Chip) -> dict[str, float]:
    """The figures of one compiled program; see the documentation of the file."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    tera, accessed = cost["flops"] / 1e12, cost["bytes accessed"] / 1e9
    moved = sum(each.bytes for each in program.traffic()) / 1e9
    exchanges = program.collectives().values()
    return {
        "arguments": memory.argument_size_in_bytes / 2**30,
        "temporaries": memory.temp_size_in_bytes / 2**30,
        "TFLOP": tera,
        "GB accessed": accessed,
        "GB in main memory": moved,
        "arithmetic (ms)": 1e3 * tera / chip.tflops,
        "memory (ms)": 1e3 * moved / chip.gigabytes_per_second,
        "collectives": sum(number for number, _ in exchanges),
        "MB exchanged": sum(size for _, size in exchanges) / 1e6,
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

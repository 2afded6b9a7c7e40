"""Trains a model: `python launch/train.py --config configs/oclr_flow.py --workdir DIR`.

`configs/oclr_flow.py` is the flow model, `configs/raft.py` optical flow. Training needs a checkout:
an installed package has no configs.

Variants follow a colon, single fields a dot: `--config configs/oclr_flow.py:small
--config.data.dir=DATA --config.steps=100`. The same command resumes from the newest checkpoint:
after Ctrl-C (exit status 130), a preemption by SIGTERM (143), an error (2), or a crash.

The training runs on all devices of this machine. On several machines, start the same command on
each: the hosts of a TPU slice and the tasks of SLURM and Open MPI find each other; other processes
need `--coordinator=HOST:PORT --processes=N --process_id=0` (to N-1).
"""

import os
import shlex
import sys
from pathlib import Path

# `launch` runs from a checkout, installed or not; configs and the loader's workers need it too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oclr_jax.command import BAD_INPUT, lacks_extra

if lacks_extra("train", "data"):
    sys.exit(BAD_INPUT)

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from oclr_jax.errors import UserError
from oclr_jax.train.data import naming_read_errors
from oclr_jax.train.devices import check_batch, overlap_exchanges
from oclr_jax.train.interrupts import StopSignal
from oclr_jax.train.loop import train
from oclr_jax.train.processes import failing_together, join_processes
from oclr_jax.train.replay import replay
from oclr_jax.train.tasks import open_task

ROOT = Path(__file__).resolve().parents[1]
CONFIG = config_flags.DEFINE_config_file("config", help_string="FILE.py or FILE.py:variant,variant")
PROFILE = flags.DEFINE_bool("profile", False, "trace a few steps into WORKDIR/profile")
WORKDIR = flags.DEFINE_string("workdir", None, "folder for everything that the training writes")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, of several")
PROCESSES = flags.DEFINE_integer("processes", None, "number of processes that train together")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "index of this process, from 0")
REPLAY = flags.DEFINE_string("replay", None, "run the step of a batch in WORKDIR/nonfinite again")


def keep_compiled_programs() -> None:
    """Caches them in the checkout for the next run, unless the environment names another place."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))


def main(argv: list[str]) -> int:
    config, workdir, stop = CONFIG.value, WORKDIR.value, StopSignal()
    keep_compiled_programs()
    command = shlex.join(["python", "launch/train.py", *sys.argv[1:]])
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]} is not an option; options begin with --.")
        overlap_exchanges()
        join_processes(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value)
        check_batch(config.batch_size, config.accumulate)
        with failing_together(), naming_read_errors():
            task = open_task(config)
            data = task.open_data(config)
        if REPLAY.value:
            print(replay(config, workdir, task, data, REPLAY.value))
            return 0
        options = {"command": command, "profile": PROFILE.value, "stop": stop}
        state = train(config, workdir, task, data, **options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"Interrupted; to resume from the last checkpoint: {command}", file=sys.stderr)
        return 130
    if stop.signal is not None:
        print(f"Stopped and saved at step {int(state.step)}; to resume: {command}", file=sys.stderr)
        return 128 + stop.signal
    return 0


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one sentence and status 2 for a mistake in flags or configuration."""
    try:
        rest = flags.FLAGS(argv)
        CONFIG.value.keys()  # A configuration that could not be loaded raises only when it is used.
    except (flags.Error, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        # The message is the last line, under a traceback; a KeyError's text is its repr.
        text = str(error).replace(r"\n", "\n").strip("'")
        print(f"{text.strip().splitlines()[-1].strip()} (see --help)", file=sys.stderr)
        sys.exit(BAD_INPUT)
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)
    return rest


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)

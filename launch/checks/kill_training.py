"""Kills a training again and again, and compares its end with that of an undisturbed one.

`python launch/checks/kill_training.py --kills 20` runs the real command on the CPU, on a `tiny`
dataset that it renders first. Every kill is SIGKILL: during start-up, between and in steps, and
while a checkpoint is written. Parameters, optimizer state and all metrics of every step (and so the
batches and the random numbers) must be bit-identical to those of the undisturbed training; else the
exit status is 1.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

# `launch` is run from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np
from ml_collections import ConfigDict

from configs.oclr_flow import get_config
from oclr_jax.train.checkpoints import Checkpoints
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import CHECKPOINTS, TrainState, init_state
from oclr_jax.train.tasks import open_task

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = ("start", "step", "save")
# Values of the journal that differ between runs of the same training, by how their names begin.
TIMES = ("seconds", "steps_per_s", "data_wait", "tflops_per_s", "mfu", "peak_gib")
UNFINISHED = "*.orbax-checkpoint-tmp*"


def settings(data_dir: Path, steps: int) -> ConfigDict:
    """The configuration: small, with many checkpoints."""
    config = get_config("tiny")
    config.data.dir = str(data_dir)
    config.model.channels = (4, 8)
    config.steps = steps
    config.ema_decay = 0.9
    config.log_every = 1
    config.checkpoint_every = 2
    config.evaluate_every = 25
    config.validation_clips = 1
    return config


def start(config: ConfigDict, workdir: Path, **options: int) -> subprocess.Popen:
    """Starts the real command with this configuration, its output in `log.txt` of the workdir.

    Args:
      options: of `subprocess.Popen`.
    """
    begun = get_config("tiny").to_dict()
    flat = {
        f"{room}.{name}" if room else name: value
        for room, fields in [("", config.to_dict()), *config.to_dict().items()]
        if isinstance(fields, dict)
        for name, value in fields.items()
        if not isinstance(value, dict) and value != (begun.get(room, {}) if room else begun)[name]
    }
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / "log.txt").open("a") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "launch/train.py", "--config=configs/oclr_flow.py:tiny"),
                *(f"--config.{name}={value}" for name, value in flat.items()),
                f"--workdir={workdir}",
            ],
            cwd=ROOT,
            **{"stdout": log, "stderr": log} | options,
        )


def steps_done(workdir: Path) -> int:
    """The last step in the journal."""
    return max((row["step"] for row in read_rows(workdir)), default=0)


def kill(training: subprocess.Popen, workdir: Path, moment: str, rng: random.Random) -> str:
    """Kills a training, which was just started, at a random time of a kind; returns where it was.

    A training that ends before that time is not killed.
    """
    at_begin, more = steps_done(workdir), rng.randint(1, 5)
    deadline = time.monotonic() + rng.uniform(0, 10)
    came = {
        "start": lambda: time.monotonic() > deadline,
        "step": lambda: steps_done(workdir) >= at_begin + more,
        "save": lambda: any((workdir / CHECKPOINTS).glob(UNFINISHED)),
    }[moment]
    while not came() and training.poll() is None:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.2) if moment == "step" else rng.uniform(0, 0.03))
    training.send_signal(signal.SIGKILL)
    if training.wait() == 0:
        return "after its end"
    if any((workdir / CHECKPOINTS).glob(UNFINISHED)):
        return "while it wrote a checkpoint"
    return "between two writes" if steps_done(workdir) > at_begin else "before its first step"


def last_state(config: ConfigDict, workdir: Path) -> TrainState:
    """The newest state of a training."""
    optimizer = make_optimizer(OptimizerConfig(**config.optimizer), config.steps)
    variables = open_task(config).init_variables(config.seed)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.keep_checkpoints, config.keep_best)
    like = jax.device_put(init_state(variables, optimizer, config.ema_decay > 0), jax.devices()[0])
    try:
        return checkpoints.restore_newest(like)
    finally:
        checkpoints.close()


def differences(config: ConfigDict, one: Path, other: Path) -> list[str]:
    """Names what is not bit-identical in the last states and the metrics of two trainings."""
    found = []
    states = [jax.tree_util.tree_leaves_with_path(last_state(config, x)) for x in (one, other)]
    for (path, ours), (_, theirs) in zip(*states, strict=True):
        if np.asarray(ours).tobytes() != np.asarray(theirs).tobytes():
            found.append(jax.tree_util.keystr(path))
    rows = [
        [{n: v for n, v in row.items() if not n.startswith(TIMES)} for row in read_rows(x)]
        for x in (one, other)
    ]
    if rows[0] != rows[1]:
        found.append("metrics.jsonl")
    return found


def finish(config: ConfigDict, workdir: Path) -> None:
    """Runs a training to its end."""
    if start(config, workdir).wait():
        raise SystemExit(f"The training failed: see {workdir / 'log.txt'}.")


def disturb(
    config: ConfigDict, workdir: Path, moments: Sequence[str], rng: random.Random
) -> list[str]:
    """Runs a training to its end, killed at these moments; returns where it was each time."""
    places = []
    for number, moment in enumerate(moments, start=1):
        begun = steps_done(workdir)
        place = kill(start(config, workdir), workdir, moment, rng)
        places.append(place)
        print(f"kill {number}: {place}, steps {begun} to {steps_done(workdir)}", flush=True)
    finish(config, workdir)
    return places


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    # Two runs on other devices differ in the last bits by default.
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    rng = random.Random(options.seed)
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(options.kills)]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        config = settings(folder / "data", steps=10 + 4 * options.kills)
        subprocess.run(
            [sys.executable, "launch/generate.py", "--config=tiny", "--data_dir", folder / "data"],
            cwd=ROOT,
            check=True,
        )
        finish(config, folder / "undisturbed")
        places = disturb(config, folder / "killed", moments, rng)
        found = differences(config, folder / "undisturbed", folder / "killed")
    counts = ", ".join(f"{count} {place}" for place, count in Counter(places).most_common())
    print(f"{options.kills} kills ({counts}), {config.steps} steps: ", end="")
    print("differs in " + ", ".join(found) if found else "bit-identical")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

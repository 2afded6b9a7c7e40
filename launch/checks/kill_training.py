"""Kills a training again and again, and compares its end with that of one that nobody disturbed.

`python launch/checks/kill_training.py --kills 20` runs the real program on a dataset of the kind
`tiny`, which it renders first, on the CPU. Every kill is SIGKILL: while the program starts, between
and in its steps, and while it writes a state. What was learned, the state of the optimizer, every
figure of every step (and so the batches and the random numbers) must be those of the undisturbed
training to the last bit; else the exit status is 1.
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
from oclr_jax.train.checkpoints import TrainStates
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.start import STATES
from oclr_jax.train.state import TrainState, init_state
from oclr_jax.train.tasks import open_task

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = ("start", "step", "save")
# Of the rows of the journal, what another run of the same training need not repeat; the seconds of
# each phase too.
TIMES = ("seconds", "steps_per_s", "data_wait", "tflops_per_s", "mfu", "peak_gib")
UNFINISHED = "*.orbax-checkpoint-tmp*"


def settings(data_dir: Path, steps: int) -> ConfigDict:
    """The training: small, with much to save."""
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
    """The real program with this configuration, its output to `log.txt` in the workdir.

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
    return max((row["step"] for row in read_rows(workdir / "metrics.jsonl")), default=0)


def kill(training: subprocess.Popen, workdir: Path, moment: str, rng: random.Random) -> str:
    """Kills a training that was just started at a random time of this kind, and says where it was.

    A training that ends before is left to do so.
    """
    at_begin, more = steps_done(workdir), rng.randint(1, 5)
    deadline = time.monotonic() + rng.uniform(0, 10)
    came = {
        "start": lambda: time.monotonic() > deadline,
        "step": lambda: steps_done(workdir) >= at_begin + more,
        "save": lambda: any((workdir / STATES).glob(UNFINISHED)),
    }[moment]
    while not came() and training.poll() is None:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.2) if moment == "step" else rng.uniform(0, 0.03))
    training.send_signal(signal.SIGKILL)
    if training.wait() == 0:
        return "after its end"
    if any((workdir / STATES).glob(UNFINISHED)):
        return "while it wrote a state"
    return "between two writes" if steps_done(workdir) > at_begin else "before its first step"


def last_state(config: ConfigDict, workdir: Path) -> TrainState:
    """The newest state of a training."""
    optimizer = make_optimizer(OptimizerConfig(**config.optimizer), config.steps)
    params = open_task(config).init_params(config.seed)
    states = TrainStates(workdir / STATES, config.keep_checkpoints, config.keep_best)
    like = jax.device_put(init_state(params, optimizer, config.ema_decay > 0), jax.devices()[0])
    try:
        return states.restore_newest(like)
    finally:
        states.close()


def differences(config: ConfigDict, one: Path, other: Path) -> list[str]:
    """What is not the same, to the last bit, in the ends of two trainings and on their ways."""
    found = []
    states = [jax.tree_util.tree_leaves_with_path(last_state(config, x)) for x in (one, other)]
    for (path, ours), (_, theirs) in zip(*states, strict=True):
        if np.asarray(ours).tobytes() != np.asarray(theirs).tobytes():
            found.append(jax.tree_util.keystr(path))
    rows = [
        [
            {n: v for n, v in row.items() if not n.startswith(TIMES)}
            for row in read_rows(x / "metrics.jsonl")
        ]
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
    """Runs a training to its end, killed at these moments; where it was each time."""
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
    # Elsewhere two runs differ in the last bits, unless they are told not to.
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
    print("differs in " + ", ".join(found) if found else "the same to the last bit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

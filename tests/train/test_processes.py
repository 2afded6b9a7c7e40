"""Several processes train as one, and when one of them fails, all end with its message."""

import dataclasses
import itertools
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from oclr_jax.train.data import TrainingData
from oclr_jax.train.record.journal import read_rows
from tests.train.toy import toy_config, toy_data, train_toy

ROOT = Path(__file__).resolve().parents[2]

# Process FAILING of two fails WHERE; alone, the other would wait for it for ever.
PROCESS = """
import sys, time
workdir, port, index, failing, where = sys.argv[1:]
from oclr_jax.errors import UserError
from oclr_jax.train.processes import failing_together, join_processes
join_processes(f"localhost:{port}", 2, int(index))
import dataclasses
from jax.experimental.multihost_utils import sync_global_devices
from tests.train.toy import toy_batch, toy_config, toy_data, train_toy

def fail():
    print(time.time(), flush=True)
    raise OSError(5, "Input/output error", "shard 7")

data = toy_data(2)
if where == "opening":
    with failing_together():
        if index == failing:
            print(time.time(), flush=True)
            raise UserError("There is no dataset here.")
        sync_global_devices("opened")
if index == failing:
    def batches(start):
        yield toy_batch(0, 2)
        yield toy_batch(1, 2)
        fail()
    def validation():
        yield toy_batch(0, 1)
        if where == "bug":
            print(time.time(), flush=True)
            raise ZeroDivisionError("a bug")
        fail()
    if where == "training":
        data = dataclasses.replace(data, train_batches=batches)
    else:
        data = dataclasses.replace(data, validation_batches=validation)
train_toy(toy_config(), workdir, data)
"""


TRAINING = """
import sys
workdir, port, index, parallel = sys.argv[1:]
from oclr_jax.train.processes import join_processes
join_processes(f"localhost:{port}", 2, int(index))
from tests.train.test_processes import part_of_toys
from tests.train.toy import toy_config, train_toy
config = toy_config()
config.parallel = parallel
train_toy(config, workdir, part_of_toys(int(index), 2))
"""


def part_of_toys(index: int, count: int) -> TrainingData:
    """The part of the toy data that process `index` of `count` reads."""
    whole, own = toy_data(4), slice(index * 4 // count, (index + 1) * 4 // count)

    def batches(start):
        for batch in whole.train_batches(start):
            yield {name: values[own] for name, values in batch.items()}

    def validation():
        return itertools.islice(whole.validation_batches(), index, None, count)

    return dataclasses.replace(whole, train_batches=batches, validation_batches=validation)


def run_two(program: str, workdir: Path, *arguments: object) -> tuple[list, list]:
    """Runs a program in two processes of one training; the processes, and their outputs."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, workdir, *map(str, (port, index, *arguments))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return processes, outputs


@pytest.mark.parametrize("parallel", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path, parallel):
    """Losses, scores, and with them parameters and batch statistics."""
    train_toy(toy_config(), tmp_path / "one")
    processes, outputs = run_two(TRAINING, tmp_path / "two", parallel)
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = (read_rows(tmp_path / name) for name in ("one", "two"))
    assert [(r["kind"], r["step"]) for r in one] == [(r["kind"], r["step"]) for r in two]
    for ours, theirs in zip(two, one, strict=True):
        for name in {"loss", "error", "grad_norm"} & theirs.keys():
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=1e-4, err_msg=f"{name} {ours}"
            )
    assert "step 6" in outputs[0][0] and "step" not in outputs[1][0]


@pytest.mark.parametrize(
    ("failing", "where", "words", "status"),
    [
        pytest.param(
            *(1, "training", "The data cannot be read ([Errno 5] Input/output error: 'shard 7')"),
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(0, "training", "The data cannot be read ([Errno 5] Input/output error: 'shard 7')"),
            2,
            marks=pytest.mark.slow,
        ),
        (1, "validation", "The data cannot be read ([Errno 5] Input/output error: 'shard 7')", 2),
        pytest.param(1, "opening", "There is no dataset here.", 2, marks=pytest.mark.slow),
        (0, "bug", "ZeroDivisionError: a bug", 1),
    ],
)
def test_all_processes_end_with_the_message_of_the_failed_one(
    tmp_path, failing, where, words, status
):
    processes, outputs = run_two(PROCESS, tmp_path, failing, where)
    ended = time.time()
    assert all(words in errors for _, errors in outputs), outputs
    assert f"Process {failing} of this training failed: " in outputs[1 - failing][1]
    codes = [process.returncode for process in processes]
    assert (codes[failing], codes[1 - failing]) == (status, 2)
    failed = float(outputs[failing][0].splitlines()[-1])
    assert ended - failed < 30, "they waited for each other"
    if status == 2:
        assert "Traceback" not in outputs[0][1] + outputs[1][1]

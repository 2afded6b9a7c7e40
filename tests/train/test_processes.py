"""When one of several processes fails, all end with its message within seconds."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("failing", "where", "words", "status"),
    [
        (1, "training", "The data cannot be read ([Errno 5] Input/output error: 'shard 7')", 2),
        (0, "training", "The data cannot be read ([Errno 5] Input/output error: 'shard 7')", 2),
        (1, "validation", "The data cannot be read ([Errno 5] Input/output error: 'shard 7')", 2),
        (1, "opening", "There is no dataset here.", 2),
        (0, "bug", "ZeroDivisionError: a bug", 1),
    ],
)
def test_all_processes_end_with_the_message_of_the_failed_one(
    tmp_path, failing, where, words, status
):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", PROCESS, tmp_path, str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(index), str(failing), where],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
        ended = time.time()
    finally:
        for process in processes:
            process.kill()
    assert all(words in errors for _, errors in outputs), outputs
    assert f"Process {failing} of this training failed: " in outputs[1 - failing][1]
    codes = [process.returncode for process in processes]
    assert (codes[failing], codes[1 - failing]) == (status, 2)
    failed = float(outputs[failing][0].splitlines()[-1])
    assert ended - failed < 30, "they waited for each other"
    if status == 2:
        assert "Traceback" not in outputs[0][1] + outputs[1][1]

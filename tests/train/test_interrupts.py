"""Signals: one process, and two that must end after the same step."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from oclr_jax.train.interrupts import StopSignal

ROOT = Path(__file__).resolve().parents[2]

PROCESS = """
import sys, time
import jax
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))
from oclr_jax.train.interrupts import StopSignal
stop = StopSignal()
with stop.listening():
    print("ready", flush=True)
    for step in range(1, 6000):
        time.sleep(0.01)
        if stop.stops_after(step):
            break
print(step, stop.signal, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop(number):
    before = signal.getsignal(number)
    stop = StopSignal()
    with stop.listening():
        assert not stop.stops_after(1) and not stop.may_interrupt
        os.kill(os.getpid(), number)
        assert stop.stops_after(2) and stop.may_interrupt
        assert stop.signal == number
        os.kill(os.getpid(), signal.SIGTERM)  # a scheduler that says it twice
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_processes_end_after_the_same_step(number):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(port), str(index)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        os.kill(processes[1].pid, number)
        ends = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], ends
    first, second = (out.split() for out, _ in ends)
    assert first[0] == second[0] != "5999"
    assert first[1] == "15"

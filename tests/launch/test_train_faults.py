"""The training command under faults: killed, preempted, without disk, workers or good data."""

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from launch.checks import kill_training
from launch.checks.kill_training import differences, finish, kill, last_state, settings, steps_done
from tests.launch.test_processes import begin

PATIENCE = 600  # seconds; far more than it takes

pytestmark = pytest.mark.slow


@pytest.fixture
def start():
    """Starts trainings, of which none outlives its test."""
    started = []

    def start(*arguments, **options):
        started.append(kill_training.start(*arguments, **options))
        return started[-1]

    yield start
    for training in started:
        training.kill()
        training.wait()


def wait_for(happened) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def newest(workdir: Path) -> int:
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir())


def is_running(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_kills_other_workers_and_a_damaged_state_change_nothing(tmp_path, data_dir, start):
    config, rng = settings(data_dir, steps=12), random.Random(0)
    workdir = tmp_path / "killed"
    finish(config, tmp_path / "undisturbed")

    config.data.workers = 2
    training = start(config, workdir, process_group=0)
    kill(training, workdir, "save", rng)
    wait_for(lambda: not is_running(training.pid))  # its workers follow it

    config.data.workers = 0
    kill(start(config, workdir), workdir, "step", rng)

    saved = newest(workdir)
    for path in (workdir / "checkpoints" / str(saved)).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    config.data.workers = 1
    kill(start(config, workdir), workdir, "save", rng)
    assert f"checkpoint of step {saved} is damaged" in (workdir / "log.txt").read_text()

    finish(config, workdir)
    assert differences(config, tmp_path / "undisturbed", workdir) == []


def workers_of(process: int) -> list[int]:
    """Its child processes that make batches."""
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return [
        int(child)
        for children in threads
        for child in children.read_text().split()
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def ends(training, status: int, workdir: Path, words: str) -> None:
    assert training.wait(PATIENCE) == status
    assert words in (workdir / "log.txt").read_text()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")
def test_what_ends_a_training_early_leaves_its_state(tmp_path, data_dir, start):
    config = settings(data_dir, steps=10**6)
    config.update({"checkpoint_every": 10**6, "evaluate_every": 10**6})
    config.data.workers = 1
    training = start(config, tmp_path)
    wait_for(lambda: steps_done(tmp_path) >= 2)
    (worker,) = workers_of(training.pid)
    os.kill(worker, signal.SIGKILL)
    ends(training, 2, tmp_path, "A worker process of the data died")
    # Nothing is lost: the step that was under way is saved too.
    assert newest(tmp_path) >= steps_done(tmp_path) >= 2

    config.checkpoint_every, config.data.workers = 2, 0
    begun = steps_done(tmp_path)
    # Not into a file, which the limit is on too.
    training = start(config, tmp_path, stderr=subprocess.PIPE)
    wait_for(lambda: steps_done(tmp_path) > begun)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.prlimit(training.pid, resource.RLIMIT_FSIZE, (30_000, hard))  # as a full disk
    errors = training.communicate(timeout=PATIENCE)[1].decode()
    assert training.returncode == 2
    assert "make room there and give the same command again" in errors
    assert int(last_state(config, tmp_path).step) >= begun


def test_preemption_saves_and_ends(tmp_path, data_dir, start):
    config = settings(data_dir, steps=10**6)
    config.update({"checkpoint_every": 10**6, "evaluate_every": 10**6})
    training = start(config, tmp_path)
    wait_for(lambda: steps_done(tmp_path) >= 2)
    training.send_signal(signal.SIGTERM)
    ends(training, 128 + signal.SIGTERM, tmp_path, "Stopped and saved at step")
    assert newest(tmp_path) == steps_done(tmp_path) >= 2


def test_a_broken_record_is_named(tmp_path, data_dir, start):
    shutil.copytree(data_dir, tmp_path / "data")
    shard = min((tmp_path / "data").rglob("*train.array_record*"))
    data = bytearray(shard.read_bytes())
    data[30_000] ^= 1
    shard.write_bytes(data)
    training = start(settings(tmp_path / "data", steps=6), tmp_path)
    ends(training, 2, tmp_path, "is broken: sequence")


def test_two_processes_save_the_same_step_when_one_is_preempted(tmp_path, data_dir):
    often, never = {"checkpoint_every": 2}, {"evaluate_every": 10**6}
    training = begin(tmp_path, data_dir, 10**6, processes=2, devices=1, **often, **never)
    try:
        wait_for(lambda: steps_done(tmp_path) >= 2)
        training[1].send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=PATIENCE) for process in training]
    finally:
        for process in training:
            process.kill()
    assert [process.returncode for process in training] == [128 + signal.SIGTERM] * 2, outputs
    for _, errors in outputs:
        assert f"Stopped and saved at step {newest(tmp_path)};" in errors

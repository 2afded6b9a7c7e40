"""The training command: it stops on Ctrl-C, goes on, and answers mistakes with a sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oclr_jax.train.record.journal import read_rows
from oclr_jax.weights.file import load_weights

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 600  # seconds; far more than it takes


def start(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "launch/train.py", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_ctrl_c_saves_and_the_command_goes_on(tmp_path, data_dir):
    workdir = tmp_path / "with a space"
    options = [
        "--config=configs/oclr_flow.py:tiny",
        f"--workdir={workdir}",
        f"--config.data.dir={data_dir}",
        "--config.model.channels=(4, 8)",
        "--config.log_every=1",
        "--config.evaluate_every=1000000",
    ]
    training = start(*options, "--config.steps=1000000")
    deadline = time.monotonic() + PATIENCE
    while not read_rows(workdir) and time.monotonic() < deadline:
        assert training.poll() is None, training.communicate()
        time.sleep(0.1)
    os.kill(training.pid, signal.SIGINT)
    _, errors = training.communicate(timeout=PATIENCE)
    assert training.returncode == 130
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert f"Stopped and saved at step {step}; to resume: python launch/train.py" in errors
    assert f"'--workdir={workdir}'" in errors
    assert read_rows(workdir)[-1]["step"] == step
    assert not (workdir / "weights.safetensors").exists()

    training = start(*options, f"--config.steps={step + 2}")
    output, errors = training.communicate(timeout=PATIENCE)
    assert training.returncode == 0, errors
    assert f"step {step} of {step + 2}" in output
    rows = read_rows(workdir)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, step + 3))
    assert (workdir / "weights.safetensors").exists()
    assert "step/s" not in errors  # no terminal, no progress bar


@pytest.mark.slow
def test_scenes_are_rendered_while_training(tmp_path, data_dir):
    training = start(
        "--config=configs/oclr_flow.py:tiny",
        f"--workdir={tmp_path}",
        f"--config.data.dir={data_dir}",
        "--config.data.online=True",
        "--config.data.flow=exact",
        "--config.model.channels=(4, 8)",
        "--config.steps=2",
        "--config.log_every=1",
    )
    _, errors = training.communicate(timeout=PATIENCE)
    assert training.returncode == 0, errors
    rows = read_rows(tmp_path)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2]


@pytest.mark.slow
def test_optical_flow_is_trained_by_the_same_command(tmp_path, pairs_dir):
    training = start(
        "--config=configs/raft.py:tiny",
        f"--workdir={tmp_path}",
        f"--config.data.dir={pairs_dir}",
        "--config.loss.iterations=2",
        "--config.steps=2",
        "--config.log_every=1",
    )
    output, errors = training.communicate(timeout=PATIENCE)
    assert training.returncode == 0, errors
    *steps, scores = read_rows(tmp_path)
    assert [row["step"] for row in steps] == [1, 2]
    assert 0 < scores["dis_epe"] < 10 and scores["epe"] > 0 and "fl_all" in scores
    assert "dis_epe" in output
    _, info = load_weights(tmp_path / "weights.safetensors", "raft")
    assert info.card["config"]["data"]["train"] == "tiny_pairs"
    assert info.card["command"].startswith("python launch/train.py --config=configs/raft.py:tiny")


def test_a_mistake_is_one_sentence_and_status_2(tmp_path):
    """The others are in test_train_mistakes.py; this one goes through the whole program."""
    training = start("--config=configs/oclr_flow.py:tony", f"--workdir={tmp_path / 'workdir'}")
    output, errors = training.communicate(timeout=PATIENCE)
    assert training.returncode == 2
    assert "unknown variant 'tony'" in errors
    assert len(errors.splitlines()) == 1
    assert output == ""
    assert not (tmp_path / "workdir").exists()

"""Two processes of two devices each train together; others, and other numbers of them, go on."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from oclr_jax.models.parameters import flatten
from oclr_jax.train.record.journal import read_rows
from oclr_jax.weights.file import load_weights

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

PATIENCE = 600  # seconds; far more than it takes
STEPS = 6  # the first half by one training, the second by another


def begin(workdir: Path, data_dir: Path, steps: int, *, processes: int, devices: int, **fields):
    """Starts the training command in processes of their own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fields = {
        "data.dir": data_dir,
        "model.channels": "(4, 8)",
        "batch_size": 4,
        "steps": steps,
        "log_every": 1,
        "checkpoint_every": 3,
        "evaluate_every": 3,
        "validation_clips": 3,
        "export_dtype": "float32",
    } | fields
    command = [sys.executable, "launch/train.py", "--config=configs/oclr_flow.py:tiny"]
    command += [f"--workdir={workdir}"] + [f"--config.{n}={v}" for n, v in fields.items()]
    started = []
    for index in range(processes):
        others = [f"--coordinator=localhost:{port}", f"--processes={processes}"]
        others += [f"--process_id={index}"]
        started.append(
            subprocess.Popen(
                command + (others if processes > 1 else []),
                cwd=ROOT,
                env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def train(workdir: Path, data_dir: Path, steps: int, **options):
    """Runs the training command to its end; its outputs, by process."""
    started = begin(workdir, data_dir, steps, **options)
    try:
        outputs = [process.communicate(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), outputs
    return [output for output, _ in outputs]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, data_dir) -> Path:
    """The workdir of an uninterrupted training on one device."""
    workdir = tmp_path_factory.mktemp("straight")
    train(workdir, data_dir, STEPS, processes=1, devices=1)
    return workdir


@pytest.fixture(scope="module")
def half(tmp_path_factory, data_dir) -> tuple[Path, list[str]]:
    """The workdir, and what was printed, of the first half on two processes of two devices."""
    workdir = tmp_path_factory.mktemp("half")
    return workdir, train(workdir, data_dir, STEPS // 2, processes=2, devices=2)


def assert_agree(workdir: Path, straight: Path, kinds: set[str]) -> None:
    """Losses and scores to 1e-4, the gradients' norms to 1e-3."""
    rows, expected = (read_rows(folder) for folder in (workdir, straight))
    expected = expected[: len(rows)]
    assert {row["kind"] for row in rows} == kinds
    for row, wanted in zip(rows, expected, strict=True):
        assert (row["kind"], row["step"]) == (wanted["kind"], wanted["step"])
        for name in {"loss", "bce", "boundary", "modal_j", "amodal_j"} & wanted.keys():
            np.testing.assert_allclose(row[name], wanted[name], rtol=1e-4, err_msg=f"{name} {row}")
        if "grad_norm" in wanted:
            np.testing.assert_allclose(row["grad_norm"], wanted["grad_norm"], rtol=1e-3)


def test_two_processes_train_as_one(half, straight):
    workdir, outputs = half
    assert "4 cpu devices (jit), step 0 of 3" in outputs[0]
    # One prints, logs and exports for all; what the other says comes from what connects them.
    assert "step" not in outputs[1]
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["3"]
    assert_agree(workdir, straight, {"train", "validation"})


@pytest.mark.parametrize(("processes", "devices", "parallel"), [(1, 4, "jit"), (2, 2, "pmap")])
def test_others_go_on_where_two_processes_stopped(
    tmp_path, data_dir, half, straight, processes, devices, parallel
):
    """The parameters agree to 1e-3: Adam divides gradients by their own size, rounding included."""
    workdir = tmp_path / "half"
    shutil.copytree(half[0], workdir)
    train(workdir, data_dir, STEPS, processes=processes, devices=devices, parallel=parallel)
    assert_agree(workdir, straight, {"train", "validation"})
    ours, theirs = (
        flatten(load_weights(folder / "weights.safetensors")[0]) for folder in (workdir, straight)
    )
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-3, err_msg=name)

"""Training on several devices gives what one device gives, and mistakes are reported.

The runs are a separate program, on eight simulated devices.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.train import devices, processes

ROOT = Path(__file__).resolve().parents[2]


def ten_steps(kind: str, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The results of ten_steps.py by mode: metrics of every step, parameters and model state."""
    path = folder / "given.npz"
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"}
    command = [sys.executable, "tests/train/ten_steps.py", kind, path]
    out = subprocess.run(command, cwd=ROOT, env=os.environ | flags, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    given = {}
    for name, value in np.load(path).items():
        mode, name = name.split(":")
        given.setdefault(mode, {})[name] = value
    return given


@pytest.fixture(scope="module")
def of_the_model(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    return ten_steps("model", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def of_the_toy(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    return ten_steps("toy", tmp_path_factory.mktemp("toy"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "jit_accumulated"])
def test_ten_steps_of_the_model_are_those_of_one_device(of_the_model, mode):
    """Metrics, the gradient's norm among them, to 2e-6, and parameters to 1e-6.

    A gradient that is summed over the devices, or not averaged, or taken of an average, and a
    boundary term that is divided by a device's own pixels, are all off by far more.
    """
    one, ours = of_the_model["one"], of_the_model[mode]
    assert one.keys() == ours.keys()
    assert {"metrics/loss", "metrics/grad_norm", "metrics/boundary"} < one.keys()
    assert one["metrics/loss"][-1] < 0.95 * one["metrics/loss"][0]
    for name, value in one.items():
        tolerance = {"rtol": 2e-6} if name.startswith("metrics/") else {"rtol": 0, "atol": 1e-6}
        np.testing.assert_allclose(ours[name], value, err_msg=name, **tolerance)


@pytest.mark.parametrize(
    "mode, alone", [("toy_jit", "toy_one"), ("toy_pmap", "toy_one"), ("fit_all", "fit_one")]
)
def test_ten_steps_are_those_of_one_device(of_the_toy, mode, alone):
    """Also batch statistics, which are those of the whole batch; jit, pmap and `fit`."""
    one, ours = of_the_toy[alone], of_the_toy[mode]
    assert one.keys() == ours.keys()
    assert one["metrics/loss"][-1] < 0.8 * one["metrics/loss"][0]
    assert np.ptp(one["batch_stats/norm/mean"]) > 0.1
    for name, value in one.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("parallel", "batch_size", "accumulate", "words"),
    [
        ("jit", 12, 1, "12 examples cannot be split evenly among 8 devices; .* multiple of 8"),
        ("pmap", 8, 2, "among 8 devices x accumulate 2; .* multiple of 16"),
        ("jit", 8, 0, "multiple of 8"),
        ("xmap", 8, 1, "no parallel='xmap'; choose one of jit, pmap"),
    ],
)
def test_what_does_not_fit_the_devices_is_told(
    monkeypatch, parallel, batch_size, accumulate, words
):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match=words):
        devices.open_devices(parallel, batch_size, accumulate)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "16"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_ML_PLATFORM": "JAX"}, True),
    ],
)
def test_the_environment_tells_whether_there_are_other_processes(environment, several):
    assert processes.started_as_one_of_several(environment) == several


@pytest.mark.parametrize("given", [("host:1", None, None), ("host:1", 2, 2), (None, 2, 0)])
def test_a_process_that_is_half_described_is_refused(given):
    with pytest.raises(UserError, match="need all of --coordinator"):
        processes.join_processes(*given)


def test_flags_of_the_tpu_compiler_do_not_replace_those_of_the_user(monkeypatch):
    own = "--xla_jf_crs_combiner_threshold_in_bytes=1000 --other=2"
    monkeypatch.setenv("LIBTPU_INIT_ARGS", own)
    devices.overlap_exchanges()
    flags = os.environ["LIBTPU_INIT_ARGS"]
    assert flags.startswith(own) and "--xla_enable_async_all_reduce=true" in flags
    assert flags.count("combiner_threshold") == 1
    devices.overlap_exchanges()
    assert os.environ["LIBTPU_INIT_ARGS"] == flags

"""What tests share: CPU, a compilation cache, shapes checked at call time, the data folder."""

import os
import signal
from importlib.metadata import version
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]


def jaxlib_version() -> tuple[int, int]:
    """Major and minor version, without importing jax."""
    major, minor, *_ = version("jaxlib").split(".")
    return int(major), int(minor)


# Through the environment, before jax is imported, so that commands which tests start inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Tests compile far more than they compute. Without optimisation, and with the fusion emitters that
# XLA had before, the gradient of a model compiles in a quarter of the time. Releases of jax after
# 0.10 (Python 3.12 and later) have the new emitters alone, and refuse to start with the flag.
if jaxlib_version() < (0, 11):
    flags = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
else:
    flags = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = flags

# A suite that was started in the background ignores Ctrl-C, under nohup also SIGHUP, and so would
# the commands whose reaction to these signals is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# From here on every annotated function of the project checks its shapes and dtypes when called.
install_import_hook(["oclr_jax", "data_pipelines"], "beartype.beartype")


@pytest.fixture(autouse=True)
def no_default_refiners(monkeypatch):
    """Masks are the flow model's unless a test asks for a refiner; the default one takes time."""
    monkeypatch.setattr("oclr_jax.refine.refiner.DEFAULT_REFINERS", ())


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real videos and large reference vectors beside the checkout."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("needs the folder of reference data beside the checkout, which is not here")
    return path


@pytest.fixture(scope="session")
def raft_weights(tmp_path_factory) -> Path:
    """Random weights of RAFT-small."""
    # Here and not above: what is imported before the hook is not checked.
    import numpy as np

    from oclr_jax.models.parameters import unflatten
    from oclr_jax.models.raft import RAFTConfig, parameter_shapes
    from oclr_jax.weights.description import WeightsInfo
    from oclr_jax.weights.file import save_weights

    config, rng = RAFTConfig(small=True), np.random.default_rng(0)
    shapes = parameter_shapes(config)
    flat = {name: 0.05 * rng.standard_normal(shapes[name], np.float32) for name in shapes}
    path = tmp_path_factory.mktemp("raft") / "small.safetensors"
    save_weights(path, unflatten(flat), WeightsInfo(config, "small"))
    return path

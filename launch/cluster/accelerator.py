"""What a machine has to train on, before jax is installed: for `pip install`."""

from pathlib import Path

# Device files of the chips, newest TPUs by vfio.
_TPU, _GPU = ("accel[0-9]*", "vfio/[0-9]*"), ("nvidia[0-9]*",)


def jax_requirement(devices: Path = Path("/dev")) -> str:
    """The jax to install: "jax[tpu]", "jax[cuda12]", or "jax" where there is neither."""
    for requirement, patterns in (("jax[tpu]", _TPU), ("jax[cuda12]", _GPU)):
        if any(any(devices.glob(pattern)) for pattern in patterns):
            return requirement
    return "jax"

"""Detects the accelerator before jax is installed, to choose the package for `pip install`."""

from pathlib import Path

# Device files of the chips; recent TPUs use vfio.
_TPU, _GPU = ("accel[0-9]*", "vfio/[0-9]*"), ("nvidia[0-9]*",)


def jax_requirement(devices: Path = Path("/dev")) -> str:
    """The requirement to install: "jax[tpu]", "jax[cuda12]", or "jax" without an accelerator."""
    for requirement, patterns in (("jax[tpu]", _TPU), ("jax[cuda12]", _GPU)):
        if any(any(devices.glob(pattern)) for pattern in patterns):
            return requirement
    return "jax"

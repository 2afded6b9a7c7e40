"""Which jax a machine wants."""

import pytest

from launch.cluster.accelerator import jax_requirement


@pytest.mark.parametrize(
    ("files", "requirement"),
    [
        ([], "jax"),
        (["null", "vfio/vfio"], "jax"),  # what every Linux has
        (["nvidiactl", "nvidia0", "nvidia1"], "jax[cuda12]"),
        (["nvidiactl"], "jax"),  # a driver without a chip
        (["accel0"], "jax[tpu]"),
        (["vfio/vfio", "vfio/0"], "jax[tpu]"),
    ],
)
def test_a_machine_is_known_by_its_device_files(tmp_path, files, requirement):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert jax_requirement(tmp_path) == requirement

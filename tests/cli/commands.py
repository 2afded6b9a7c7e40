"""Commands that must be refused, and what is given to them."""

from pathlib import Path

import numpy as np

from oclr_jax import cli
from oclr_jax.flow import write_flo
from oclr_jax.models.oclr import parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.weights.file import save_weights
from tests.clips import CONFIG, INFO


def everything(folder) -> dict[str, bytes | None]:
    """Every path below a folder, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(capsys, tmp_path, *arguments) -> str:
    """Runs a command that must be refused, and returns its one sentence."""
    before = everything(tmp_path)
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert everything(tmp_path) == before
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("oclr: ") and error.endswith(".\n") and error.count("\n") == 1
    return error


def write_random_weights(folder: Path) -> Path:
    """Weights that fit the package's model and know nothing."""
    path, rng = folder / "random.safetensors", np.random.default_rng(0)
    shapes = parameter_shapes(CONFIG)
    params = {name: 0.1 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_weights(path, unflatten(params), INFO, dtype="float32")
    return path


def flow_that_fits(folder, size=(32, 48)):
    for gap, numbers in ((1, range(3)), (-1, range(1, 4))):
        for number in numbers:
            flow = np.ones((*size, 2), np.float32)
            write_flo(folder / f"Flows_gap{gap}" / f"{number}.flo", flow)
    return folder

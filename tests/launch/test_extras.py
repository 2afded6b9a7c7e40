"""Programs that need an extra say so in one sentence where it is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oclr_jax import command

ROOT = Path(__file__).resolve().parents[2]
NEEDS_DATA = (
    "benchmark",
    "build_benchmark",
    "generate",
    "import_annotated",
    "import_synval",
    "predict_masks",
    "train",
    "reports/dataset",
    "reports/depth_order",
    "reports/flow_error",
    "reports/selection",
)


def without(package: str, folder: Path, program: str) -> subprocess.CompletedProcess:
    """Runs a program as if `package` were not installed."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{package!r}] = None\n")
    return subprocess.run(
        [sys.executable, ROOT / "launch" / f"{program}.py", "--help"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("program", "package", "extra"),
    [
        *((program, "tensorflow_datasets", "data") for program in NEEDS_DATA),
        ("generate", "grain", "data"),
        ("cluster/segment_beam", "apache_beam", "beam"),
    ],
)
def test_a_program_names_the_extra_that_it_lacks(program, package, extra, tmp_path):
    done = without(package, tmp_path, program)
    assert done.returncode == command.BAD_INPUT and not done.stdout
    name = program.rpartition("/")[2]
    assert done.stderr == (
        f"{name}: this needs the extra `{extra}`; run pip install '.[{extra}]' in the checkout.\n"
    )


def test_an_extra_that_is_installed_is_not_missed(capsys):
    assert not command.lacks_extra("generate", "data")
    assert capsys.readouterr().err == ""

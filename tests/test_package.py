"""Wheel and source distribution: what is in them, and that they work where nothing else is."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import oclr_jax
from oclr_jax.video.png import read_ids

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("oclr_jax", "data_pipelines")
PYTHONS = ("3.11", "3.12", "3.13")
OURS = ("PYTHON", "JAX", "XLA")  # the settings of the tests, and the way to the checkout
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
# What hosted notebooks come with: Python, and our dependencies among the packages of Colab's list
# (github.com/googlecolab/backend-info). The three of OpenCV install the same module `cv2`. If the
# installation replaced what a kernel has loaded, the notebook would have to be restarted.
HOSTS = {
    "numpy 2.1": (
        "3.13",  # of August 2026
        ("absl-py==1.4.0", "array_record==0.8.3", "etils==1.14.0", "flax==0.11.2"),
        ("ipykernel==6.17.1", "jax==0.7.2", "jaxlib==0.7.2", "matplotlib==3.10.0"),
        ("ml_dtypes==0.6.0", "numpy==2.1.3", "opencv-contrib-python==4.14.0.94"),
        ("opencv-python==5.0.0.93", "opencv-python-headless==5.0.0.93", "optax==0.2.8"),
        ("orbax-checkpoint==0.12.4", "pillow==11.3.0", "pycocotools==2.0.11"),
        ("safetensors==0.8.0", "scipy==1.16.3", "tqdm==4.67.3"),
    ),
    # The same jax with what came before.
    "numpy 2.0": (
        "3.12",
        ("flax==0.11.2", "ipykernel==6.17.1", "jax==0.7.2", "jaxlib==0.7.2"),
        ("matplotlib==3.10.0", "numpy==2.0.2", "opencv-contrib-python==4.12.0.88"),
        ("opencv-python==4.12.0.88", "opencv-python-headless==4.12.0.88", "pillow==11.3.0"),
        ("scipy==1.16.3",),
    ),
}
# A scene of the training data, in which the shipped weights find both objects. Other versions of
# OpenCV render other pixels, in which they need not.
RENDER = """
import numpy as np
from data_pipelines.synthetic import SceneConfig, render, sample_scene
from oclr_jax.video.writer import video_writer

config = SceneConfig(frames=12, render_height=128, render_width=224)
with video_writer("clip.mp4", 24, 128, 224) as write:
    for frame in render(sample_scene(np.random.default_rng(8), config, 2))["video"]:
        write(frame)
"""


def run(command: list, folder: Path) -> str:
    """Runs a command that must succeed, as a user would; returns what it prints."""
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(OURS)}
    command = [str(word) for word in command]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, output: Path) -> Path:
    """Builds the `wheel` or `sdist` of a folder, and removes what the build left in it."""
    run([sys.executable, "-c", BUILD.format(kind), output], source)
    shutil.rmtree(source / "build", ignore_errors=True)
    shutil.rmtree(source / "oclr_jax.egg-info", ignore_errors=True)
    (path,) = output.iterdir()
    return path


@pytest.fixture(scope="module")
def dists(tmp_path_factory) -> dict[str, Path]:
    """The wheel of the checkout, its sdist, and the wheel of the sdist."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("checkout", "wheel", "sdist", "unpacked", "wheel of sdist"):
        (folder / name).mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "tests", "colabs", "configs", "launch", "docs"):
        shutil.copytree(ROOT / name, folder / "checkout" / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "checkout" / name)
    found = {kind: build(kind, folder / "checkout", folder / kind) for kind in ("wheel", "sdist")}
    with tarfile.open(found["sdist"]) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return found | {"wheel of sdist": build("wheel", unpacked, folder / "wheel of sdist")}


def wanted_files() -> set[str]:
    """Modules and data of the packages in the checkout."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    paths += [*(ROOT / "oclr_jax").rglob("*.safetensors"), *(ROOT / "oclr_jax").rglob("*.json")]
    paths += [path for path in (ROOT / "oclr_jax" / "web" / "static").rglob("*") if path.is_file()]
    paths += [ROOT / package / "py.typed" for package in PACKAGES]
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_wheels_hold_the_two_packages_and_nothing_else(dists: dict[str, Path]):
    names = set(zipfile.ZipFile(dists["wheel"]).namelist())
    about = {name for name in names if ".dist-info/" in name}
    # A folder without __init__.py, or a data file that setup.py forgot, would be missing.
    assert names - about == wanted_files()
    assert f"oclr_jax-{oclr_jax.__version__}.dist-info/licenses/LICENSE" in about
    assert set(zipfile.ZipFile(dists["wheel of sdist"]).namelist()) == names


def test_the_sdist_holds_what_a_wheel_is_built_from(dists: dict[str, Path]):
    with tarfile.open(dists["sdist"]) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    written = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    own = {"setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"}
    assert names - written == wanted_files() | own


def test_the_metadata_are_complete(dists: dict[str, Path]):
    with zipfile.ZipFile(dists["wheel"]) as archive:
        folder = f"oclr_jax-{oclr_jax.__version__}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        commands = archive.read(f"{folder}/entry_points.txt").decode()
        assert archive.read(f"{folder}/WHEEL").decode().count("Tag: py3-none-any") == 1
    assert metadata["Name"] == "oclr_jax" and metadata["Version"] == oclr_jax.__version__
    assert metadata["License"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11,<3.14"
    pythons = [c.rpartition(" ")[2] for c in metadata.get_all("Classifier") if ":: Python ::" in c]
    assert tuple(pythons) == PYTHONS
    assert {"data", "web", "programs", "beam"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata.get_payload().lstrip().startswith("# oclr_jax")
    assert "oclr = oclr_jax.cli:main" in commands


@cache
def interpreter(version: str) -> str | None:
    """A Python of this version that can create environments: this one, on PATH, or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [sys.executable, shutil.which(f"python{version}")]
    places += sorted(pyenv.glob(f"{version}.*/bin/python"))
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for place in filter(None, places):
        done = subprocess.run([place, "-c", code], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip() == version:
            return str(place)
    return None


def environment(version: str, folder: Path) -> Path:
    """A new environment with nothing but pip; returns its folder of programs."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"needs Python {version}, which is not on this machine")
    run([python, "-m", "venv", folder / "environment"], folder)
    return folder / "environment" / "bin"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """The scene, rendered by the checkout: the same in all environments."""
    folder = tmp_path_factory.mktemp("clip")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", RENDER], cwd=folder, env=environment, check=True)
    return folder / "clip.mp4"


def check_installation(bin: Path, folder: Path, clip: Path) -> None:
    """The commands render and segment; `folder` is outside of the checkout."""
    assert run([bin / "oclr", "--version"], folder).split() == ["oclr", oclr_jax.__version__]
    assert "segment" in run([bin / "oclr", "--help"], folder)
    weights = run([bin / "oclr", "weights"], folder)
    shipped = re.search(r"oclr-small: .*\n  present: (.*)", weights)[1]
    assert Path(shipped).is_relative_to(bin.parent)
    run([bin / "python", "-c", RENDER], folder)
    assert (folder / "clip.mp4").is_file()
    run([bin / "oclr", "segment", clip, "result"], folder)
    masks = np.stack([read_ids(path) for path in sorted((folder / "result/masks").iterdir())])
    assert masks.shape == (12, 128, 224) and set(np.unique(masks)) == {0, 1, 2}
    assert (folder / "result" / "overlay.mp4").is_file()
    assert "refiners: self" in run([bin / "oclr", "inspect", "result"], folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
@pytest.mark.parametrize("version", PYTHONS)
def test_a_clean_environment(
    dists: dict[str, Path], clip: Path, tmp_path: Path, version: str, kind: str
):
    """Downloads the dependencies."""
    bin = environment(version, tmp_path)
    run([bin / "pip", "install", "--quiet", dists[kind]], tmp_path)
    run([bin / "pip", "check"], tmp_path)
    check_installation(bin, tmp_path, clip)


def run_notebook(bin: Path, wheel: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Segments in a kernel of the environment that has loaded its packages before it installs.

    Returns what the cells print.
    """
    run([bin / "python", "-m", "ipykernel", "install", "--prefix", bin.parent], folder)
    monkeypatch.setenv("JUPYTER_PATH", str(bin.parent / "share" / "jupyter"))
    for name in os.environ:
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    notebook = nbformat.read(ROOT / "colabs" / "segment_a_video.ipynb", as_version=4)
    (install,) = (cell for cell in notebook.cells if "install" in cell.metadata.get("tags", []))
    source = "oclr_jax @ git+https://github.com/oclr-jax/oclr_jax"
    assert source in install.source
    install.source = install.source.replace(source, str(wheel))
    loaded = "import cv2, jax, matplotlib.pyplot, numpy, PIL.Image"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(loaded))
    options = {"kernel_name": "python3", "resources": {"metadata": {"path": folder}}}
    NotebookClient(notebook, timeout=1800, **options).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.output_type == "stream")


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_a_hosted_notebook(
    dists: dict[str, Path], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
):
    """Nothing of the host is replaced, and its kernel goes on after the installation."""
    version, *lines = HOSTS[host]
    packages = {package for line in lines for package in line}
    bin = environment(version, tmp_path)
    run([bin / "pip", "install", "--quiet", *sorted(packages)], tmp_path)
    printed = run_notebook(bin, dists["wheel"], tmp_path, monkeypatch)
    assert "objects, front to back: [" in printed and "true object 1: J" in printed
    assert packages <= set(run([bin / "pip", "freeze"], tmp_path).splitlines())
    run([bin / "pip", "check"], tmp_path)
    check_installation(bin, tmp_path, clip)

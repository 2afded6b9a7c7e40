"""The environment of a training: devices, versions and the state of the code."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

import oclr_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_CHANGED_SHOWN = 10  # files


def describe_environment() -> dict[str, str]:
    """Versions, devices of all processes, and the state of the checkout, for the report."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return {
        "devices": f"{len(devices)} x {', '.join(kinds)} ({jax.default_backend()})",
        "processes": str(jax.process_count()),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "oclr_jax": oclr_jax.__version__,
        **{name: _version(name) for name in _PACKAGES},
        "git": git_state(Path(oclr_jax.__file__).parent),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git_state(folder: Path) -> str:
    """The commit of the code in `folder` and its changed files; or that it is not a checkout.

    An installed package may be inside a checkout of something else, so git must know its file.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(folder, "log", "-1", "--format=%H (%cs)")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    if not changed:
        return f"{commit}, nothing changed since"
    names = [line[3:] for line in changed]
    more = f" and {len(names) - _CHANGED_SHOWN} more" if len(names) > _CHANGED_SHOWN else ""
    return f"{commit}, changed since: {', '.join(names[:_CHANGED_SHOWN])}{more}"


def _git(folder: Path, *arguments: str) -> str:
    out = subprocess.run(
        ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True
    )
    return out.stdout.rstrip()

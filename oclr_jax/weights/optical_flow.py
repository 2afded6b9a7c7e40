"""Weights of learned optical flow: their file, and where they are found."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.raft import MIN_SIDE, RAFT, RAFTConfig
from oclr_jax.weights.description import FORMAT_VERSION, Description
from oclr_jax.weights.segmentation import read_arrays, write_arrays
from oclr_jax.weights.tree import describe_mismatch, flatten, unflatten

METADATA_KEY = "oclr_jax_flow"
# Released weights that stand for an estimator where none are named, and the SHA-256 of the released
# file where it is known.
RELEASED = {"raft": "raft-things.pth", "raft-small": "raft-small.pth"}
SHA256 = {"raft-things.pth": "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1"}
RELEASE_PAGE = "https://github.com/princeton-vl/RAFT"


@dataclass(frozen=True)
class FlowWeightsInfo(Description):
    """What the weights are; using them needs no config file.

    model: which RAFT.
    name: a short name.
    card: where they come from; plain JSON values.
    format_version: version of this file layout.
    """

    model: RAFTConfig
    name: str
    card: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def expected_flow_shapes(config: RAFTConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every variable of a model by its path `params/a/b` or `batch_stats/a/b`."""
    frame = jax.ShapeDtypeStruct((1, MIN_SIDE, MIN_SIDE, 3), "f4")
    variables = jax.eval_shape(RAFT(config).init, jax.random.key(0), frame, frame)
    return {path: leaf.shape for path, leaf in flatten(variables).items()}


def save_flow_weights(
    path: str | Path, variables: dict[str, Any], info: FlowWeightsInfo, dtype: str = "float16"
) -> None:
    """Writes a model's variables and their description to `path`, whole or not at all.

    Args:
      variables: "params" and, where the model has them, "batch_stats".
      dtype: "float16", "bfloat16" or "float32", the type on disk.

    Raises:
      UserError: where variables and model do not fit, a value is not finite in `dtype`, or the file
        cannot be written.
    """
    flat = {key: np.asarray(leaf) for key, leaf in flatten(variables).items()}
    _check(flat, info.model, path)
    write_arrays(path, flat, METADATA_KEY, info.to_json(), dtype)


def load_flow_weights(path: str | Path) -> tuple[dict[str, Any], FlowWeightsInfo]:
    """Reads a file that `save_flow_weights` wrote: float32 variables, and their description.

    Raises:
      UserError: for a file that is broken, for another model, or does not fit its description.
    """
    arrays, description = read_arrays(Path(path), METADATA_KEY)
    try:
        info = FlowWeightsInfo.from_json(description)
    except (ValueError, TypeError) as error:
        raise UserError(f"The description inside {path} is not usable: {error}.") from error
    _check(arrays, info.model, path)
    return unflatten(arrays), info


def find_flow_weights(name_or_path: str | os.PathLike | None, estimator: str = "raft") -> Path:
    """The file of these weights: a path, or a name in the cache folder; None for released ones.

    A released file in the cache folder must be the one that was released, where its SHA-256 is
    known. Nothing is ever downloaded.

    Raises:
      UserError: where there is no such file, saying where the released weights are, or where the
        file of the cache folder is not what its name says.
    """
    name = RELEASED[estimator] if name_or_path is None else os.fspath(name_or_path)
    if name_or_path is not None and Path(name).is_file():
        return Path(name)
    cached = cache_folder() / name
    if not cached.is_file():
        wanted = "" if name_or_path is None else f" {name}"
        raise UserError(
            f"There are no flow weights{wanted}: get the released models from {RELEASE_PAGE} and "
            f"put {RELEASED[estimator]} into {cache_folder()}, or name a file of weights."
        )
    if name in SHA256 and hashlib.sha256(cached.read_bytes()).hexdigest() != SHA256[name]:
        raise UserError(
            f"{cached} is not the released {name}, its SHA-256 differs; download it again, or give "
            "weights of your own by their path."
        )
    return cached


def cache_folder() -> Path:
    """Where a user may put weights to be found by name."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(caches) / "oclr_jax" / "weights"


def _check(arrays: dict[str, np.ndarray], config: RAFTConfig, path: str | Path) -> None:
    shapes = {key: leaf.shape for key, leaf in arrays.items()}
    mismatch = describe_mismatch(shapes, expected_flow_shapes(config))
    if mismatch:
        raise UserError(f"The weights in {path} do not fit their model: {mismatch}.")

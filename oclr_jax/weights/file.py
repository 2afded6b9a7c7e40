"""Files of weights: self-describing safetensors files, and released PyTorch checkpoints."""

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.models.parameters import describe_mismatch, flatten, unflatten
from oclr_jax.torch_import.file import read_state_dict
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.kinds import KINDS, Kind, kind_of_release
from oclr_jax.weights.registry import find_weights

DEFAULT_WEIGHTS = "oclr-small"
DTYPES = {"float16": np.float16, "float32": np.float32, "bfloat16": jnp.bfloat16}
TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt")


def save_weights(
    path: str | os.PathLike, params: dict[str, Any], info: WeightsInfo, dtype: str = "float16"
) -> None:
    """Writes parameters and their description to a safetensors file, whole or not at all.

    Args:
      path: the file; an existing one is replaced.
      params: nested dict of arrays that fit `info.model`. For RAFT and Mask R-CNN they are
        the variables, "params" and "batch_stats".
      dtype: "float16", "bfloat16" or "float32", the type on disk.

    Raises:
      UserError: the parameters do not fit the model, a value is not finite in `dtype`, or the file
        cannot be written.
    """
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    _check_fit(flat, info, path)
    _check_floats(flat, path)
    with np.errstate(over="ignore"):
        flat = {
            name: np.ascontiguousarray(leaf.astype(DTYPES[dtype])) for name, leaf in flat.items()
        }
    for name, leaf in flat.items():
        if not np.isfinite(leaf.astype(np.float32)).all():
            raise UserError(
                f"Cannot write {path}: {name} has values that are not finite in {dtype}."
            )
    with replacing(path) as temporary:
        # Not `save_file`, which makes files that only their owner can read.
        temporary.write_bytes(save(flat, metadata={info.kind.metadata_key: info.to_json()}))


def load_weights(
    name_or_path: str | os.PathLike | None = None, kind: str = "oclr"
) -> tuple[dict[str, Any], WeightsInfo]:
    """Reads weights from a safetensors file or a released PyTorch checkpoint.

    Args:
      name_or_path: as in `registry.find_weights`; None for the segmentation model that comes with
        the package.
      kind: of the model, a key of `kinds.KINDS`.

    Returns:
      nested dict of float32 parameters that fit the description's model, and the description.

    Raises:
      UserError: the weights are missing, broken, of another kind, or do not fit their description.
    """
    path = find_weights(DEFAULT_WEIGHTS if name_or_path is None else name_or_path)
    wanted = KINDS[kind]
    if path.suffix in TORCH_SUFFIXES:
        params, info = import_checkpoint(path)
        _check_kind(path, info.kind, wanted)
        return params, info
    arrays, metadata = _read_safetensors(path)
    found = [kind for kind in KINDS.values() if kind.metadata_key in metadata]
    if not found:
        raise UserError(
            f"{path} does not say which model it is for; use a file that this program wrote, or a "
            "released checkpoint."
        )
    _check_kind(path, found[0], wanted)
    try:
        info = WeightsInfo.from_json(metadata[wanted.metadata_key], wanted)
    except (ValueError, TypeError) as error:
        raise UserError(f"The description inside {path} is not usable: {error}.") from error
    _check_floats(arrays, path)
    _check_fit(arrays, info, path)
    return unflatten({name: leaf.astype(np.float32) for name, leaf in arrays.items()}), info


def import_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Any], WeightsInfo]:
    """Reads a released PyTorch checkpoint of any known kind; never runs pickle.

    Returns:
      nested dict of float32 parameters, and their description.

    Raises:
      UserError: for every file that is not such a checkpoint.
    """
    path = Path(path)
    state, iteration = read_state_dict(path)
    try:
        kind = kind_of_release(state)
        params, config = kind.import_state(state)
    except UserError as error:
        raise UserError(f"{path} is refused: {error}") from error
    card = {"converted_from": path.name} | dict(kind.release.get("card", {}))
    if iteration is not None:
        card["steps"] = iteration
    fields = dict(kind.release) | {"card": card}
    return params, WeightsInfo(model=config, name=path.stem, **fields)


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the metadata of a file."""
    with open(path, "rb"):
        pass  # an OSError that names the reason; `safe_open` calls every failure a missing file
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}).") from error


def _check_kind(path: Path, found: Kind, wanted: Kind) -> None:
    if found is not wanted:
        raise UserError(f"{path} holds weights for {found.title}, and not for {wanted.title}.")


def _check_fit(arrays: dict[str, np.ndarray], info: WeightsInfo, path: str | os.PathLike) -> None:
    shapes = {name: leaf.shape for name, leaf in arrays.items()}
    mismatch = describe_mismatch(shapes, _shapes_of(info.kind.shapes, info.model))
    if mismatch:
        raise UserError(f"The weights in {path} do not fit their model: {mismatch}.")


@functools.cache
def _shapes_of(shapes: Callable[[Any], Any], model: Any) -> Mapping[str, tuple[int, ...]]:
    # Once for a model, because this traces all of it, which takes longer than to read a small file.
    return shapes(model)


def _check_floats(arrays: dict[str, np.ndarray], path: str | os.PathLike) -> None:
    floats = {np.dtype(dtype) for dtype in DTYPES.values()}
    wrong = sorted(name for name, leaf in arrays.items() if leaf.dtype not in floats)
    if wrong:
        raise UserError(f"{path} has arrays that are not floating point: {', '.join(wrong)}.")

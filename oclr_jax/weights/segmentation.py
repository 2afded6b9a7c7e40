"""Model weights as one self-describing safetensors file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.weights.description import FORMAT_VERSION, Description
from oclr_jax.weights.tree import describe_mismatch, flatten, unflatten

METADATA_KEY = "oclr_jax"
# What the files of this package hold, by the key of their description.
CONTENTS = {METADATA_KEY: "segmentation", "oclr_jax_flow": "optical flow"}
DEFAULT_WEIGHTS = "oclr-small"
SHIPPED = Path(__file__).resolve().parent / "shipped"
DTYPES = {"float16": np.float16, "float32": np.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class WeightsInfo(Description):
    """What the weights are and what they expect of their input; using them needs no config file.

    model: the model's configuration, flow gaps included.
    flow: settings of the flow estimator the weights were trained for (name, resolution, ...).
    data_version: version of the training data.
    name: a short name.
    card: where they come from: steps, seed, metrics, command, ...; plain JSON values.
    format_version: version of this file layout.
    """

    model: OCLRConfig
    flow: dict[str, Any]
    data_version: str
    name: str
    card: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def expected_shapes(config: OCLRConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of a model by its path `a/b/c`."""
    flow = jax.ShapeDtypeStruct((1, 1, config.stride, config.stride, 2 * len(config.gaps)), "f4")
    variables = jax.eval_shape(OCLR(config).init, jax.random.key(0), flow)
    return {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}


def save_weights(
    path: str | Path, params: dict[str, Any], info: WeightsInfo, dtype: str = "float16"
) -> None:
    """Writes parameters and their description to `path`, whole or not at all.

    Args:
      path: the safetensors file; an existing one is replaced.
      params: nested dict of arrays that fit `info.model`.
      dtype: "float16", "bfloat16" or "float32", the type on disk.

    Raises:
      UserError: where parameters and configuration do not fit, a value is not finite in `dtype`, or
        the file cannot be written.
    """
    flat = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}
    _check(flat, info.model, path)
    write_arrays(path, flat, METADATA_KEY, info.to_json(), dtype)


def load_weights(name_or_path: str | Path | None = None) -> tuple[dict[str, Any], WeightsInfo]:
    """Reads weights: a file, the name of weights in the package, or None for the default ones.

    Returns:
      nested dict of float32 parameters that fit the description's model, and the description.

    Raises:
      UserError: for weights that are missing, broken, or do not fit their own description.
    """
    path = find_weights(name_or_path)
    arrays, description = read_arrays(path, METADATA_KEY)
    try:
        info = WeightsInfo.from_json(description)
    except (ValueError, TypeError) as error:
        raise UserError(f"The description inside {path} is not usable: {error}.") from error
    _check(arrays, info.model, path)
    return unflatten(arrays), info


def find_weights(name_or_path: str | Path | None) -> Path:
    """The file of these weights; raises UserError where there is none."""
    name = DEFAULT_WEIGHTS if name_or_path is None else str(name_or_path)
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}
    if name in shipped:
        return shipped[name]
    raise UserError(
        f"There are no weights {name}: neither a file nor one of the names that come with the "
        f"package ({', '.join(shipped) or 'none'})."
    )


def write_arrays(
    path: str | Path, flat: dict[str, np.ndarray], key: str, description: str, dtype: str
) -> None:
    """Writes arrays `{"a/b/c": array}` as `dtype` with a description, whole or not at all.

    Raises:
      UserError: where a value is not finite in `dtype` or the file cannot be written.
    """
    _check_floats(flat, path)
    with np.errstate(over="ignore"):
        arrays = {
            name: np.ascontiguousarray(leaf.astype(DTYPES[dtype])) for name, leaf in flat.items()
        }
    for name, leaf in arrays.items():
        if not np.isfinite(leaf.astype(np.float32)).all():
            raise UserError(
                f"Cannot write {path}: {name} has values that are not finite in {dtype}."
            )
    with replacing(path) as temporary:
        # Not `save_file`, whose files only their owner can read.
        temporary.write_bytes(save(arrays, metadata={key: description}))


def read_arrays(path: Path, key: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file that `write_arrays` wrote, as float32, and its description.

    Raises:
      UserError: for a file that cannot be read, has other arrays, or no description `key`.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}).") from error
    others = [CONTENTS[other] for other in CONTENTS if other != key and other in metadata]
    if others:
        raise UserError(f"{path} holds weights for {others[0]}, and not for {CONTENTS[key]}.")
    if key not in metadata:
        raise UserError(
            f"{path} does not say which model it is for; use a file that this program wrote, or "
            "convert a released checkpoint with `oclr convert`."
        )
    _check_floats(arrays, path)
    return {name: leaf.astype(np.float32) for name, leaf in arrays.items()}, metadata[key]


def _check(arrays: dict[str, np.ndarray], config: OCLRConfig, path: str | Path) -> None:
    shapes = {key: leaf.shape for key, leaf in arrays.items()}
    mismatch = describe_mismatch(shapes, expected_shapes(config))
    if mismatch:
        raise UserError(f"The weights in {path} do not fit their model: {mismatch}.")


def _check_floats(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    floats = {np.dtype(dtype) for dtype in DTYPES.values()}
    wrong = sorted(name for name, leaf in arrays.items() if leaf.dtype not in floats)
    if wrong:
        raise UserError(f"{path} has arrays that are not floating point: {', '.join(wrong)}.")

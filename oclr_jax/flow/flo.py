"""The `.flo` format of the Middlebury benchmark.

Little endian: float32 202021.25, int32 width, int32 height, then float32 (u, v) row by row. Vectors
with a component above 1e9 are unknown.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.flow.unknown import UNKNOWN_VALUE, known_vectors

_MAGIC = np.float32(202021.25)
_HEADER_BYTES = 12


def read_flo_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of a `.flo` file, from its header.

    Raises:
      UserError: the file is missing, is not a `.flo` file, or has another length than its header
        implies.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
            length = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(
            f"Cannot read the flow file {path}: {error.strerror}; check the path."
        ) from error
    if len(header) < _HEADER_BYTES or np.frombuffer(header, "<f4", 1)[0] != _MAGIC:
        raise UserError(f"{path} is not a .flo flow file; write the flow again as .flo.")
    width, height = (int(size) for size in np.frombuffer(header, "<i4", 2, offset=4))
    if width < 1 or height < 1 or length != _HEADER_BYTES + 8 * width * height:
        raise UserError(
            f"The flow file {path} is damaged: {length} bytes do not hold {height}x{width} "
            "vectors; write it again."
        )
    return height, width


def read_flo(
    path: str | os.PathLike,
) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Reads flow (u, v), in pixels of its own grid, and where it is known.

    Raises:
      UserError: as `read_flo_size`.
    """
    height, width = read_flo_size(path)
    values = np.fromfile(path, "<f4", offset=_HEADER_BYTES)
    flow = values.reshape(height, width, 2).astype(np.float32, copy=False)
    return flow, known_vectors(flow)


def write_flo(path: str | os.PathLike, flow: Float32[np.ndarray, "h w 2"]) -> None:
    """Writes flow (u, v), whole or not at all; missing parent folders are created.

    Vectors that are not finite are written as unknown.

    Raises:
      ValueError: the flow is not of shape [h w 2].
      UserError: the file cannot be written.
    """
    if flow.ndim != 3 or flow.shape[2] != 2 or 0 in flow.shape:
        raise ValueError(f"flow must have shape [h w 2] and not be empty, got {flow.shape}")
    height, width, _ = flow.shape
    flow = np.where(known_vectors(flow)[..., None], flow, np.float32(UNKNOWN_VALUE))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(_MAGIC.astype("<f4").tobytes())
        file.write(np.array([width, height], "<i4").tobytes())
        file.write(np.ascontiguousarray(flow, "<f4").tobytes())

"""Flow in the 16-bit PNG files of the KITTI 2015 benchmark.

Three channels (u, v, valid): u and v are stored as 64 times the pixels plus 2^15, so they range
from -512 to 512 in steps of 1/64; valid is 1 where the flow is known.
"""

import os
import struct
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.flow.unknown import MAX_UNKNOWN, known_vectors

_SCALE = 64
_ZERO = 2**15
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_kitti_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of a KITTI flow file, from its header.

    Raises:
      UserError: the file is missing or is not a KITTI flow file.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            header = file.read(26)
    except OSError as error:
        raise UserError(
            f"Cannot read the flow file {path}: {error.strerror}; check the path."
        ) from error
    # Signature, length and name of the first chunk, width, height, bits, colour type 2 (RGB).
    if len(header) < 26 or header[:8] != _SIGNATURE or header[24:26] != b"\x10\x02":
        raise UserError(f"{path} is not a KITTI flow file, a 16-bit PNG of three channels.")
    width, height = struct.unpack(">II", header[16:24])
    return height, width


def read_kitti(
    path: str | os.PathLike,
) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Reads flow (u, v), in pixels of its own grid, and where it is known.

    Vectors that are not known are 0.

    Raises:
      UserError: as `read_kitti_size`, and where the file is damaged.
    """
    height, width = read_kitti_size(path)
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.shape != (height, width, 3) or values.dtype != np.uint16:
        raise UserError(f"The flow file {path} is damaged; write it again.")
    valid, v, u = np.moveaxis(values, -1, 0)  # OpenCV reads the channels backwards
    flow = (np.stack([u, v], axis=-1).astype(np.float32) - _ZERO) / _SCALE
    known = valid > 0
    flow[~known] = 0
    return flow, known


def write_kitti(
    path: str | os.PathLike,
    flow: Float32[np.ndarray, "h w 2"],
    valid: Bool[np.ndarray, "h w"] | None = None,
) -> None:
    """Writes flow, rounded to 1/64 px, whole or not at all; missing parent folders are created.

    Vectors that are not `valid` (by default all are), not finite, or beyond 512 px, which the
    format cannot store, are written as unknown.

    Raises:
      UserError: more than half of the vectors are beyond 512 px, or the file cannot be written.
    """
    known = known_vectors(flow) if valid is None else known_vectors(flow) & valid
    stored = np.rint(np.where(known[..., None], flow, 0).astype(np.float64) * _SCALE + _ZERO)
    fits = ((stored >= 0) & (stored < 2**16)).all(axis=-1)
    if fits.mean() < 1 - MAX_UNKNOWN:
        raise UserError(
            f"Cannot write {path}: more than half of the vectors are longer than the 512 pixels "
            "that the KITTI format can store; write .flo files."
        )
    valid = known & fits
    stored = np.where(valid[..., None], stored, 0)
    values = np.concatenate([valid[..., None], stored[..., ::-1]], axis=-1).astype(np.uint16)
    _, data = cv2.imencode(".png", values)
    with replacing(path) as temporary:
        temporary.write_bytes(data.tobytes())

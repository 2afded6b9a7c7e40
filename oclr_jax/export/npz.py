"""Masks as NumPy arrays."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from oclr_jax.export.result import Result
from oclr_jax.files import replacing

_DATE = (1980, 1, 1, 0, 0, 0)  # see `youtubevos`


def write_npz(path: Path, results: Sequence[Result]) -> None:
    """Writes an npz file, frame by frame, which `np.load` reads array by array.

    masks: uint8 [t h w], id of the object that is visible, 0 for none. amodal_<id>: bool [t h w],
    one for each object. order: ids, front to back. times: seconds from the first frame. stems:
    names of the frames' files.
    """
    (result,) = results
    shape = (len(result.stems), result.height, result.width)
    with (
        replacing(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive,
    ):
        small = {
            "order": np.array(result.order, np.int64),
            "times": np.array(result.record["video"]["times"]),
            "stems": np.array(result.stems),
        }
        for name, array in small.items():
            _write_array(archive, name, array.shape, array.dtype, [array])
        frames = (masks.ids for masks in result.frames())
        _write_array(archive, "masks", shape, np.dtype(np.uint8), frames)
        for entry in result.record["objects"]:
            found = {each["frame"]: each["amodal"] for each in entry["frames"]}
            absent = np.zeros(shape[1:], bool)
            amodal = (
                result.decode(found[frame]) if frame in found else absent
                for frame in range(shape[0])
            )
            _write_array(archive, f"amodal_{entry['id']}", shape, np.dtype(bool), amodal)


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    parts: Iterable[np.ndarray],
) -> None:
    """Adds an array of which the parts follow one another along the first axis."""
    info = zipfile.ZipInfo(f"{name}.npy", _DATE)
    info.compress_type = zipfile.ZIP_DEFLATED
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    # Its size is not known beforehand, and may exceed what a zip file states without zip64.
    with archive.open(info, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).tobytes())

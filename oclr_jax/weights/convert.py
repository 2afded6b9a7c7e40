"""`oclr convert`: a released checkpoint to a self-describing safetensors file."""

import os
from dataclasses import replace
from pathlib import Path

from oclr_jax.errors import UserError
from oclr_jax.files import check_input
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import import_checkpoint, save_weights


def convert_checkpoint(in_pth: str | os.PathLike, out: str | os.PathLike) -> WeightsInfo:
    """Converts a released PyTorch checkpoint to a float32 safetensors file, whole or not at all.

    Returns:
      the description that was written.

    Raises:
      UserError: for every file that is not such a checkpoint, or that cannot be read or written.
    """
    source = check_input(in_pth)
    if Path(out).exists() and source.samefile(out):
        raise UserError(
            f"{in_pth} would be replaced by its conversion; choose another output file."
        )
    params, info = import_checkpoint(source)
    info = replace(info, name=Path(out).stem)
    save_weights(out, params, info, dtype="float32")
    return info

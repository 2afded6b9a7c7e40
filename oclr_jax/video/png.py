"""PNG files: indexed masks in the DAVIS palette, binary masks and pictures."""

import io
import os

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.video.palette import DAVIS_PALETTE

# Masks compress well at any level, and the higher levels take twice the time.
_COMPRESSION = 3


def write_ids(path: str | os.PathLike, ids: UInt8[np.ndarray, "h w"]) -> None:
    """Writes object ids (0 = background) as an 8-bit indexed PNG in the DAVIS palette."""
    image = Image.fromarray(ids)
    image.putpalette(DAVIS_PALETTE.tobytes())
    _save(path, image)


def read_ids(path: str | os.PathLike) -> UInt8[np.ndarray, "h w"]:
    """Reads object ids from an indexed PNG in any palette, or a grey one (0/255 stays 0/255).

    Raises UserError for a file that is missing, broken, or neither.
    """
    try:
        with Image.open(path) as image:
            if image.mode == "1":
                image = image.convert("L")
            if image.mode not in ("P", "L"):
                raise UserError(
                    f"The mask {path} is a picture of mode {image.mode}; masks are indexed or "
                    "8-bit grey PNG."
                )
            return np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"Cannot read the mask {path}; it is missing or no whole PNG.") from error


def write_png(
    path: str | os.PathLike, image: UInt8[np.ndarray, "h w"] | UInt8[np.ndarray, "h w 3"]
) -> None:
    """Writes an 8-bit grey (masks: 0 or 255) or RGB picture."""
    _save(path, Image.fromarray(image))


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """An RGB picture as the content of a file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG", compress_level=_COMPRESSION)
    return content.getvalue()


def _save(path: str | os.PathLike, image: Image.Image) -> None:
    with replacing(path) as temporary:
        image.save(temporary, "PNG", compress_level=_COMPRESSION)

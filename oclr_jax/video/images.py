"""Image files as RGB arrays: the one place that decodes jpg, png, tif and bmp frames."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oclr_jax.errors import UserError
from oclr_jax.video.orientation import Orientation, exif_orientation

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_ORIENTATION_TAG = 0x0112
_IGNORE_ORIENTATION = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image file as 8-bit RGB; see `decode_image`."""
    return decode_image(Path(path).read_bytes(), path)


def decode_image(data: bytes, path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the content of an image file as 8-bit RGB, upright as Exif or XMP ask for.

    Grey images become RGB, 16-bit ones 8-bit (divided by 257), alpha is dropped. `path` names the
    file in errors. Raises UserError for an image that is broken, too large, of several pages, or
    has pixels that are neither 8 nor 16 bits.
    """
    with _opened(data, path) as image:
        orientation = _orientation(image)
        # OpenCV is three times as fast; Pillow alone knows where XMP holds the orientation.
        pixels = (
            _decode_jpeg(data, path) if image.format in ("JPEG", "MPO") else _to_rgb(image, path)
        )
        height, width = image.size[::-1]
    if pixels.shape != (height, width, 3):
        raise _broken(path)
    return orientation.apply(pixels)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) of an image file as it is to be seen, from its header.

    Raises UserError as `decode_image`, for what the header shows.
    """
    with _opened(path, path) as image:
        width, height = image.size
        transpose = _orientation(image).transpose
    return (width, height) if transpose else (height, width)


@contextmanager
def _opened(source: bytes | str | os.PathLike, path: str | os.PathLike) -> Iterator[Image.Image]:
    """Opens an image with Pillow; `source` is its path or its content."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file) as image:
            if image.format == "TIFF" and image.n_frames > 1:
                raise UserError(
                    f"The image {path} holds {image.n_frames} pages; save one file per frame."
                )
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"The image {path} is too large ({error}); shrink the frames.") from error
    except (OSError, SyntaxError, ValueError, EOFError, cv2.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the image
        raise _broken(path) from error


def _orientation(image: Image.Image) -> Orientation:
    """That of Exif or else XMP; Pillow turns TIFF images, and their size, itself."""
    return exif_orientation(
        1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION_TAG, 1)
    )


def _decode_jpeg(data: bytes, path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _IGNORE_ORIENTATION)
    if pixels is None:
        raise _broken(path)
    return pixels


def _to_rgb(image: Image.Image, path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            raise UserError(
                f"The pixels of {path} are neither 8-bit nor 16-bit; convert the frames."
            )
        # Of all modes Pillow alone does not bring 16-bit grey to 8 bits itself.
        image = Image.fromarray((values // 257).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _broken(path: str | os.PathLike) -> UserError:
    return UserError(
        f"The image {path} is broken or no {', '.join(IMAGE_SUFFIXES)} file; replace or remove it."
    )

"""The submission file of the YouTube-VOS benchmark."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from oclr_jax.export.result import Result
from oclr_jax.files import replacing
from oclr_jax.video.palette import DAVIS_PALETTE

# The earliest that a zip file can state, so that the same masks give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def write_youtubevos(path: Path, results: Sequence[Result]) -> None:
    """Writes a zip file of `Annotations/<video>/<stem>.png`, indexed, in the palette of DAVIS."""
    with (
        replacing(path) as temporary,
        # PNG is compressed already.
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for result in results:
            for masks in result.frames():
                image, content = Image.fromarray(masks.ids), io.BytesIO()
                image.putpalette(DAVIS_PALETTE.tobytes())
                image.save(content, "PNG")
                name = f"Annotations/{result.name}/{masks.stem}.png"
                archive.writestr(zipfile.ZipInfo(name, _DATE), content.getvalue())

"""Reading a folder of frames and annotations in the layout of DAVIS."""

import os
from pathlib import Path

import numpy as np

from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.video.folder import FrameFolder
from oclr_jax.video.images import read_image
from oclr_jax.video.names import without_junk
from oclr_jax.video.png import read_ids


def find_folder_sequences(data: str | os.PathLike) -> list[BenchmarkSequence]:
    """The sequences of `JPEGImages/[480p/]<sequence>`, `Annotations/[480p/]<sequence>`, by name.

    Raises:
      UserError: the folder does not exist, has another layout or no sequence, or a sequence has no
        annotation.
    """
    data = Path(data)
    if not data.is_dir():
        raise UserError(f"The dataset folder {data} does not exist; check the path.")
    for resolution in ("480p", ""):
        frames, annotations = (data / part / resolution for part in ("JPEGImages", "Annotations"))
        if frames.is_dir() and annotations.is_dir():
            break
    else:
        raise UserError(
            f"{data} does not have the layout of DAVIS: the folders JPEGImages and Annotations."
        )
    names = sorted(path.name for path in without_junk(frames.iterdir()) if path.is_dir())
    if not names:
        raise UserError(
            f"{frames} holds no sequences; put one folder of frames per sequence there."
        )
    for name in names:
        if not (annotations / name).is_dir():
            raise UserError(f"The sequence {name} has no annotations; add {annotations / name}.")
    return [_sequence(frames / name, annotations / name) for name in names]


def _sequence(frames: Path, annotations: Path) -> BenchmarkSequence:
    video = FrameFolder(frames)
    stems = video.stems()
    annotated = [i for i, stem in enumerate(stems) if (annotations / f"{stem}.png").is_file()]
    if not annotated:
        raise UserError(
            f"{annotations} holds no annotation that is named as a frame of {frames.name}."
        )
    return BenchmarkSequence(
        name=frames.name,
        folder=frames.name,
        stems=stems,
        frame=lambda frame: np.ascontiguousarray(read_image(video.files[frame])),
        annotated=annotated,
        annotation=lambda frame: read_ids(annotations / f"{stems[frame]}.png"),
    )

"""`oclr propagate`: the mask of the first frame is carried to all frames of a video.

The semi-supervised DINO baseline of the first paper (table 3): mask propagation alone, without the
flow model and without fine-tuning.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

import oclr_jax
from oclr_jax.errors import UserError
from oclr_jax.files import staged_output, write_json
from oclr_jax.oclr.tta.backbone import Backbone, load_backbone, working_size
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.oclr.tta.propagation import enlarge, object_masks, propagate
from oclr_jax.oclr.tta.times import PartTimes
from oclr_jax.results import (
    RESULT_NAMES,
    FrameEntry,
    SegmentationRecord,
    frame_entry,
    make_record,
    source_from,
)
from oclr_jax.show.overlay import paint_ids
from oclr_jax.tracks import Track
from oclr_jax.video.clip import Clip, open_clip, progress
from oclr_jax.video.png import read_ids, write_ids
from oclr_jax.video.resize import resize_ids, resize_image
from oclr_jax.video.writer import video_writer

# Fields of TTAConfig that the result depends on.
_SETTINGS = ("short_side", "long_multiple", "radius", "top", "temperature", "previous")


@dataclass(frozen=True)
class _FrameMasks:
    """The objects of one frame at the resolution of the video."""

    ids: UInt8[np.ndarray, "h w"]
    scores: dict[int, float]  # of the objects that are visible


def propagate_to_folder(
    input: str | os.PathLike,
    mask: str | os.PathLike,
    output: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    overlay: bool = True,
    overwrite: bool = False,
    quiet: bool = True,
    keep_damaged: bool = False,
    precision: str | None = None,
    config: TTAConfig | None = None,
) -> SegmentationRecord:
    """Propagates a mask over a video into the folder `output`, whole or not at all.

    Writes masks/<stem>.png (indexed), objects.json and, with `overlay`, overlay.mp4. The video is
    streamed: of the frames before it, each frame sees the features of the first and the last few.

    Args:
      input: video file, or folder of jpg or png frames.
      mask: PNG of the first frame, with the id of an object in each of its pixels and 0 elsewhere;
        in a black and white mask the object has the id 1.
      output: folder, created if needed.
      weights: of the image features, name or file; None for those of `config`.
      overlay: whether to write the overlay video.
      overwrite: replace results that `output` already holds.
      quiet: no progress bars, no times.
      keep_damaged: use the intact frames of a damaged video file instead of refusing it.
      precision: of the features, "float32" or "bfloat16"; None for float32 on a CPU, else bfloat16.
      config: settings of the propagation, None for the published ones.

    Returns the content of objects.json, whose amodal masks are empty. Raises UserError if weights
    are missing, for input that cannot be used, and if `output` already holds results and
    `overwrite` is not set.
    """
    config = config or TTAConfig()
    if weights is not None:
        config = replace(config, weights=os.fspath(weights))
    backbone = load_backbone(config, precision)
    first = _read_mask(mask)
    with staged_output(output, RESULT_NAMES, overwrite, (input, mask, weights)) as folder:
        clip = open_clip(input, quiet, keep_damaged)
        if first.shape != (clip.height, clip.width):
            raise UserError(
                f"The mask {mask} has {first.shape[1]}x{first.shape[0]} pixels and the video has "
                f"{clip.width}x{clip.height}; give a mask of the first frame at its size."
            )
        times = PartTimes()
        masks = _propagated(clip, first, backbone, config, times)
        entries = _write(folder, clip, masks, overlay, quiet, times)
        objects = [Track(id=int(id), rank=0, shot=0) for id in np.unique(first) if id]
        settings = {"version": oclr_jax.__version__, "propagated_from": Path(mask).name}
        settings |= _settings(backbone, config)
        source = source_from(output, input)
        record = make_record(clip, settings, objects, entries, moves=True, source=source)
        write_json(folder / "objects.json", record)
    if not quiet:
        print(times.sentence("propagate", clip.count), file=sys.stderr)
    return record


def _read_mask(path: str | os.PathLike) -> UInt8[np.ndarray, "h w"]:
    """Object ids, of which there is at least one."""
    ids = read_ids(path)
    found = set(np.unique(ids).tolist()) - {0}
    if not found:
        raise UserError(
            f"The mask {path} is empty; give the objects of the first frame ids from 1 on."
        )
    return (ids > 0).astype(np.uint8) if found == {255} else ids


def _propagated(
    clip: Clip,
    first: UInt8[np.ndarray, "h w"],
    backbone: Backbone,
    config: TTAConfig,
    times: PartTimes,
) -> Iterator[_FrameMasks]:
    """Yields the masks of all frames, the first one as it is given."""
    objects = [int(id) for id in np.unique(first) if id]
    yield _FrameMasks(first, dict.fromkeys(objects, 1.0))
    size = working_size(clip.height, clip.width, config)
    frames = (resize_image(frame, *size) for frame in clip.frames())
    features = (backbone.features(tokens, *size) for tokens in backbone.frozen_tokens(frames))
    patch = backbone.config.patch
    start = object_masks(resize_ids(first, *size)[::patch, ::patch], objects)
    masks = propagate(start, times.stream("features", features), config)
    numbers = np.array([0, *objects], np.uint8)
    for found in times.stream("propagation", masks):
        soft = enlarge(found, clip.height, clip.width)
        label = soft.argmax(-1)
        yield _FrameMasks(numbers[label], _scores(soft, label, objects))


def _scores(
    soft: Float32[np.ndarray, "h w k"], label: np.ndarray, objects: list[int]
) -> dict[int, float]:
    """Mean of each visible object's soft mask inside of its mask."""
    scores = {}
    for channel, id in enumerate(objects, start=1):
        inside: Bool[np.ndarray, "h w"] = label == channel
        if inside.any():
            scores[id] = float(soft[..., channel][inside].mean())
    return scores


def _write(
    folder: Path,
    clip: Clip,
    masks: Iterator[_FrameMasks],
    overlay: bool,
    quiet: bool,
    times: PartTimes,
) -> list[dict[int, FrameEntry]]:
    """Writes masks and overlay as they are computed; returns the entries of each frame by id."""
    (folder / "masks").mkdir()
    absent = np.zeros((clip.height, clip.width), bool)
    path, size = folder / "overlay.mp4", (clip.height, clip.width)
    shown = {"times": clip.times, "pixel_aspect": clip.pixel_aspect}
    entries = []
    with video_writer(path, clip.fps, *size, **shown) if overlay else nullcontext() as add_frame:
        frames = progress(
            zip(clip.stems, clip.frames(), strict=True), "propagating", clip.count, quiet
        )
        for number, ((stem, image), found) in enumerate(zip(frames, masks, strict=True)):
            with times.part("writing"):
                write_ids(folder / "masks" / f"{stem}.png", found.ids)
                entries.append(
                    {
                        id: frame_entry(number, stem, found.ids == id, absent, score)
                        for id, score in found.scores.items()
                    }
                )
                if overlay:
                    add_frame(paint_ids(image, found.ids))
    return entries


def _settings(backbone: Backbone, config: TTAConfig) -> dict[str, Any]:
    return {
        "weights": backbone.name,
        "weights_sha256": backbone.digest,
        "precision": backbone.config.compute_dtype,
    } | {name: getattr(config, name) for name in _SETTINGS}

"""Where predictions come from: the model, or a folder of masks that any program wrote."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from oclr_jax.datasets.benchmarks import (
    DAVIS2017_MOTION_COLOURS,
    MAX_PROPOSALS,
    WINDOW,
    WINDOW_OBJECTS,
    YTVOS2018_MOTION_COLOURS,
)
from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate.protocols import Prediction
from oclr_jax.evaluate.truth import Truth
from oclr_jax.flow import FrameFlow, open_source, resize_flow, stream_flow
from oclr_jax.oclr.predict import (
    Segmenter,
    find_tracks,
    predict_window,
)
from oclr_jax.oclr.windows import frame_groups
from oclr_jax.ops.metrics import present_ids
from oclr_jax.tracks import frame_masks, modal_layers
from oclr_jax.video.clip import Clip
from oclr_jax.video.folder import FOLDER_FPS
from oclr_jax.video.palette import DAVIS_PALETTE
from oclr_jax.video.resize import resize_mask
from oclr_jax.video.times import even_times

_NAMED = 20  # bad files that are named, at most


def with_gap(segmenter: Segmenter, gap: int) -> Segmenter:
    """The same model, fed with flow at another gap and its negative."""
    model = dataclasses.replace(segmenter.info.model, gaps=(gap, -gap))
    return dataclasses.replace(segmenter, info=dataclasses.replace(segmenter.info, model=model))


def predict_sequence(
    segmenter: Segmenter,
    sequence: BenchmarkSequence,
    flow: str | os.PathLike | None,
    whole: bool,
) -> Prediction:
    """Runs the model on one sequence, taken as a single shot; tracks only where `whole`.

    A sequence too short to have flow at the model's gaps has no objects.
    """
    height, width, _ = sequence.frame(0).shape
    flows = _flows(segmenter, sequence, flow, height, width)
    windows = [
        (frames, _window_ids(segmenter, flows, group, height, width))
        for group in frame_groups(len(flows), segmenter.info.model.frames)
        if (frames := sorted(set(group)))
    ]
    tracks = None
    if whole:
        found, _ = find_tracks(segmenter, flows)
        frames = range(len(sequence.stems))
        tracks = np.stack([frame_masks(found, frame, height, width)[0] for frame in frames])
    return Prediction(windows, tracks, chosen=False)


def _flows(
    segmenter: Segmenter, sequence: BenchmarkSequence, flow, height: int, width: int
) -> list[FrameFlow]:
    model = segmenter.info.model
    if flow is None and sequence.flow is not None:
        fields = resize_flow(sequence.flow(), model.height, model.width)
        return [FrameFlow(0, frame, field) for frame, field in enumerate(fields)]
    # Folders of flow hold whole sequences, of which a part is taken as a shot.
    start, stems = sequence.start, list(sequence.whole or sequence.stems)
    shots = [range(start, start + len(sequence.stems))]
    times = even_times(len(stems), FOLDER_FPS)
    clip = Clip(sequence.folder, stems, height, width, FOLDER_FPS, times, shots, sequence.frames)
    source = open_source(flow, segmenter.info.flow, clip, model.gaps)
    flows = stream_flow(clip, source, model.gaps, (model.height, model.width))
    return [one._replace(frame=one.frame - start) for one in flows]


def _window_ids(
    segmenter: Segmenter, flows: list[FrameFlow], group: list[int], height: int, width: int
) -> UInt8[np.ndarray, "n h w"]:
    """The layer, from 1, that is seen at each pixel of a window's frames.

    Layers are thresholded on the model's grid, composed front to back, resized and thresholded.
    """
    probability, order = predict_window(segmenter, np.stack([flows[at].flow for at in group]))
    ids = np.zeros((len(set(group)), height, width), np.uint8)
    modal = modal_layers(probability[: len(ids)] > 0.5, order)
    for frame, layers in zip(ids, modal, strict=True):
        for layer in np.argsort(order, kind="stable"):
            frame[resize_mask(layers[..., layer], height, width)] = layer + 1
    return ids


def read_results(
    folder: str | os.PathLike,
    sequence: BenchmarkSequence,
    truth: Truth,
    protocols: Sequence[str],
) -> Prediction:
    """Reads the masks of one sequence, `<folder>/<sequence>/<frame>.png`, of the frames that count.

    Every file that is missing, is no indexed or 8-bit grey PNG, has another size or palette, or ids
    beyond 255 is named in one UserError. Under `paper`, windows with more ids than the model has
    layers are refused.
    """
    place = Path(folder) / sequence.folder
    if not place.is_dir():
        raise UserError(f"There are no results for {sequence.folder}; add the folder {place}.")
    needed = {index for name in protocols for index in _needed(truth, name)}
    shape, ids, wrong = truth.ids.shape[1:], np.zeros_like(truth.ids), []
    for index in sorted(needed):
        path = place / f"{sequence.stems[truth.frames[index]]}.png"
        mask = _read_mask(path, shape)
        if isinstance(mask, str):
            wrong.append(f"{sequence.folder}/{path.name} {mask}")
        else:
            ids[index] = mask
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise UserError(
            f"{len(wrong)} files in {folder} cannot be scored: {'; '.join(wrong[:_NAMED])}{more}."
        )
    windows = _split(ids, truth, sequence) if "paper" in protocols else []
    return Prediction(windows, ids, chosen=True)


def _needed(truth: Truth, protocol: str) -> range:
    # The published program matches whole windows, frames that do not count included.
    count = len(truth.frames)
    return range(count) if protocol == "paper" else range(count)[truth.counted(protocol)]


def _split(ids: UInt8[np.ndarray, "t h w"], truth: Truth, sequence: BenchmarkSequence):
    """The masks in the published program's windows."""
    index_of, windows = {frame: index for index, frame in enumerate(truth.frames)}, []
    for group in frame_groups(len(sequence.stems), WINDOW):
        frames = sorted(set(group) & index_of.keys())
        if not frames:
            continue
        here = ids[[index_of[frame] for frame in frames]]
        count = len(present_ids(here))
        if count > WINDOW_OBJECTS:
            raise UserError(
                f"The masks of {sequence.folder} hold {count} ids in frames {frames[0]} to "
                f"{frames[-1]}; the protocol paper takes at most {WINDOW_OBJECTS} in a window of "
                f"{WINDOW} frames, so choose another protocol for them."
            )
        windows.append((frames, here))
    return windows


def _read_mask(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w"] | str:
    """Ids of a mask, or what is wrong with its file."""
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        return "is missing"
    except (OSError, SyntaxError, ValueError):
        return "is no whole PNG"
    if image.size != shape[::-1]:
        return f"is {image.size[0]}x{image.size[1]} and its frame {shape[1]}x{shape[0]}"
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    values = np.array(image)
    if image.mode.startswith("I"):
        return f"has ids up to {values.max()}, beyond 255"
    if image.mode not in ("P", "L"):
        return f"is a picture of mode {image.mode}, not an indexed one"
    used = present_ids(values)
    if image.mode == "P" and not _is_palette(image, used):
        return "has another palette than DAVIS, so that its ids are not to be trusted"
    if used == [255]:  # foreground in black and white
        return (values > 0).astype(np.uint8)
    # Ids may be absent from a frame, but are not that large and scattered.
    if image.mode == "L" and len(used) < max(used, default=0) and used[-1] > MAX_PROPOSALS:
        return f"is grey with values such as {used[-1]}: colours of ids, not ids"
    return values


def _is_palette(image: Image.Image, used: list[int]) -> bool:
    """Whether the colours of the ids in use are those of a known palette, or greys."""
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    known = [DAVIS_PALETTE]
    for listed in (DAVIS2017_MOTION_COLOURS, YTVOS2018_MOTION_COLOURS):
        known.append(np.array([(0, 0, 0), *listed]))
    known.append(np.repeat(np.arange(256), 3).reshape(-1, 3))
    return any(
        all(
            id < min(len(palette), len(colours)) and (colours[id] == palette[id]).all()
            for id in used
        )
        for palette in known
    ) or (used in ([1], [255]) and bool((colours[used[0]] == 255).all()))

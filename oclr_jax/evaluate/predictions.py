"""Predictions of the flow model for the sequences of a benchmark."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float16, UInt8

from oclr_jax.datasets.layouts import BenchmarkSequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate.protocols import Prediction, on_windows, scored_on
from oclr_jax.flow import FrameFlow, open_source, resize_flow, stream_flow
from oclr_jax.flow.gaps import neighbour, take_gaps
from oclr_jax.oclr.predict import Segmenter, predict_windows
from oclr_jax.oclr.strands import WindowLayers
from oclr_jax.pipeline import run
from oclr_jax.refine.refiner import Refiner
from oclr_jax.tracks import frame_masks, modal_layers
from oclr_jax.video.clip import Clip
from oclr_jax.video.folder import FOLDER_FPS
from oclr_jax.video.resize import resize_image, resize_mask
from oclr_jax.video.times import even_times


def with_gap(segmenter: Segmenter, gap: int) -> Segmenter:
    """Returns the same model for flow whose smallest gap is `gap`, its other gaps in proportion.

    Raises:
      UserError: a gap would not be a whole number of frames.
    """
    gaps = segmenter.info.model.gaps
    smallest = min(abs(own) for own in gaps)
    if any(own * gap % smallest for own in gaps):
        raise UserError(
            f"A model of flow at gaps {', '.join(map(str, gaps))} cannot be used at gap {gap}; "
            f"give --gap {smallest}."
        )
    gaps = tuple(own * gap // smallest for own in gaps)
    model = dataclasses.replace(segmenter.info.model, gaps=gaps)
    return dataclasses.replace(segmenter, info=dataclasses.replace(segmenter.info, model=model))


def predict_sequence(
    segmenter: Segmenter,
    sequence: BenchmarkSequence,
    flows: list[FrameFlow],
    protocols: Sequence[str],
    refiners: Sequence[Refiner] = (),
) -> Prediction:
    """Predicts one sequence, taken as a single shot, as far as the protocols need it.

    `flows` are those of `sequence_flows`. Refiners apply to tracks only. A sequence too short to
    have flow at the model's gaps has no objects.
    """
    height, width, _ = sequence.frame(0).shape
    clip = _clip(sequence, sequence.stems, range(len(sequence.stems)), height, width)
    windows, tracks = [], None
    if any(on_windows(name) for name in protocols):
        windows = [
            (
                list(range(layers.start, layers.start + len(layers.probability))),
                _window_ids(layers, height, width),
            )
            for layers in predict_windows(segmenter, flows)
        ]
    slots = None
    if any(scored_on(name) == "flows" for name in protocols):
        slots = _flow_slots(segmenter, flows, len(sequence.stems))
    if any(scored_on(name) == "tracks" for name in protocols):
        found, _ = run(clip, flows, segmenter, refiners)
        frames = range(clip.count)
        tracks = np.stack([frame_masks(found, frame, height, width)[0] for frame in frames])
    return Prediction(windows, tracks, foreground_only=False, slots=slots)


def _flow_slots(
    segmenter: Segmenter, flows: list[FrameFlow], count: int
) -> Float16[np.ndarray, "t gaps h w k"]:
    """Soft masks of the slots for every flow of all `count` frames.

    Where a neighbour does not exist, the flow of the opposite gap is taken as it is, and not
    negated, as in the published evaluation.
    """
    model = segmenter.info.model
    slots = np.zeros((count, len(model.gaps), model.height, model.width, model.slots), np.float16)
    for one in flows:
        signs = [neighbour(one.frame, gap, count)[1] for gap in model.gaps]
        field = one.flow * np.repeat(signs, 2).astype(np.float32)
        slots[one.frame] = segmenter.flow_masks(segmenter.params, field[None])[0]
    return slots


def sequence_flows(
    segmenter: Segmenter, sequence: BenchmarkSequence, flow: str | os.PathLike | None
) -> list[FrameFlow]:
    """Flow of each frame: stored with the dataset, or else from the source `flow`."""
    model = segmenter.info.model
    height, width, _ = sequence.frame(0).shape
    if flow is None and sequence.flow is not None:
        gap, size = min(abs(gap) for gap in model.gaps), (model.height, model.width)
        fields = resize_flow(take_gaps(sequence.flow(), (gap, -gap), model.gaps), *size)
        return [
            FrameFlow(0, frame, field, resize_image(sequence.frame(frame), *size))
            for frame, field in enumerate(fields)
        ]
    # Folders of flow hold whole sequences; a part of one is a shot of it.
    start, stems = sequence.start, list(sequence.whole or sequence.stems)
    shot = range(start, start + len(sequence.stems))
    clip = _clip(sequence, stems, shot, height, width)
    trained_on, precision = segmenter.info.flow, segmenter.precision
    source = open_source(flow, trained_on, clip, model.gaps, precision)
    flows = stream_flow(clip, source, model.gaps, (model.height, model.width))
    return [one._replace(frame=one.frame - start) for one in flows]


def _clip(
    sequence: BenchmarkSequence, stems: list[str], shot: range, height: int, width: int
) -> Clip:
    times = even_times(len(stems), FOLDER_FPS)
    return Clip(sequence.folder, stems, height, width, FOLDER_FPS, times, [shot], sequence.frames)


def _window_ids(layers: WindowLayers, height: int, width: int) -> UInt8[np.ndarray, "n h w"]:
    """The layer, from 1, that is visible at each pixel of a window's frames.

    Layers are thresholded on the model grid, composed front to back, resized and thresholded.
    """
    ids = np.zeros((len(layers.probability), height, width), np.uint8)
    modal = modal_layers(layers.probability > 0.5, layers.order)
    for frame, visible in zip(ids, modal, strict=True):
        for layer in np.argsort(layers.order, kind="stable"):
            frame[resize_mask(visible[..., layer], height, width)] = layer + 1
    return ids

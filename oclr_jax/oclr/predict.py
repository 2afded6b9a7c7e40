"""The flow model applied to a video: windows of flow in, layers and tracks out."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.flow import FrameFlow
from oclr_jax.models.baselines.geometric import GeometricConfig, predict_geometric
from oclr_jax.models.baselines.mask_rcnn import MaskRCNNConfig
from oclr_jax.models.baselines.motion_grouping import MotionGroupingConfig
from oclr_jax.models.layers.folding import lanes_here
from oclr_jax.models.oclr import OCLR, OCLRConfig, composing_order
from oclr_jax.models.precision import choose_precision
from oclr_jax.oclr.frame_models import (
    FlowMasks,
    make_flow_masks,
    make_mask_rcnn,
    make_motion_grouping,
)
from oclr_jax.oclr.parts import join_parts
from oclr_jax.oclr.passes import choose_passes, predict_passes
from oclr_jax.oclr.strands import WindowLayers
from oclr_jax.oclr.tracking import link_windows
from oclr_jax.oclr.windows import stream_windows
from oclr_jax.storage import ArrayFile
from oclr_jax.tracks import Track
from oclr_jax.types import MODELS
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights

# Nothing moves in a window if 99.5% of its flow is shorter than this, in pixels of the model grid.
# Noise and compression of a still 480p video stay below 0.25; a small object (0.8% of the frame)
# that moves by 2 of 854 pixels a frame reaches 0.34.
STILL_FLOW = 0.3
# Fraction of their frames that neighbouring windows share, through which objects are tracked.
OVERLAP = 0.2

FlowModelConfig = OCLRConfig | GeometricConfig | MotionGroupingConfig | MaskRCNNConfig
# Parameters, flow, and for a model that sees frames also those -> layers and pseudo-depth.
PredictFn = Callable[..., tuple[Float[Array, "b t h w k"], Float[Array, "b k"]]]


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A flow model that is ready to run."""

    params: Any
    info: WeightsInfo
    predict: PredictFn
    precision: str = "float32"  # of the computation, RAFT's included
    passes: int = 1  # over which each window is averaged, see `predict_passes`
    model: str = "oclr"  # one of `MODELS`
    join_parts: bool = False  # whether layers of a window that are parts of one object are joined
    any_gaps: bool = False  # whether flow at some of the model's gaps will do
    flow_masks: FlowMasks | None = None  # of a model that sees one flow at a time
    sees_frames: bool = False  # whether `predict` also takes RGB frames on the model grid


class FlowWindow(NamedTuple):
    """The flow of consecutive frames of one shot, as the model takes it."""

    shot: int
    start: int  # number of its first frame in the video
    count: int  # frames; the rest of `flow` repeats the last one
    flow: Float32[np.ndarray, "t h w c"]  # (u, v) per gap, in pixels of the model grid
    images: UInt8[np.ndarray, "n h w 3"]  # of the n = count frames, on the model grid


@lru_cache(maxsize=4)
def make_predict_fn(model: OCLR) -> PredictFn:
    """Compiles the model as a pure function (params, flow) -> (amodal probabilities, order).

    flow [b t h w c]: (u, v) per gap, in pixels of the model grid. Amodal probabilities [b t h w k]
    in 0..1, the layers in no particular order; order [b k] is their pseudo-depth, lowest in front.
    One program is compiled per shape of `flow`.
    """

    @jax.jit
    def predict(params, flow):
        output = model.apply({"params": params}, flow)
        return jax.nn.sigmoid(output.amodal_logits), composing_order(model.config, output)

    return predict


def load_segmenter(
    weights: str | os.PathLike | None = None,
    precision: str | None = None,
    passes: int | None = None,
    model: str = "oclr",
) -> Segmenter:
    """Loads a flow model.

    Args:
      weights: name or file, None for those of the package.
      precision: "float32" or "bfloat16", None for that of `choose_precision`.
      passes: over which each window is averaged, one of `passes.PASSES`; None for those of the
        weights, or 1 for a baseline.
      model: one of `MODELS`.

    Raises:
      UserError: there is no such model, or it cannot use the weights, or not with so many passes.
    """
    if model not in _LOADERS:
        raise UserError(f"There is no model {model!r}; choose from {', '.join(MODELS)}.")
    return _LOADERS[model](weights, precision, passes)


def _load_oclr(
    weights: str | os.PathLike | None, precision: str | None, passes: int | None
) -> Segmenter:
    params, info = load_weights(weights)
    passes = choose_passes(passes, info.model.gaps, default=info.model.passes)
    precision = choose_precision(precision)
    config = dataclasses.replace(info.model, remat=False, compute_dtype=precision)
    predict = make_predict_fn(OCLR(config, lanes_here()))
    return Segmenter(
        *(jax.device_put(params), info, predict, precision, passes),
        join_parts=info.model.join_parts,
    )


def _load_geometric(
    weights: str | os.PathLike | None, precision: str | None, passes: int | None
) -> Segmenter:
    if weights is not None:
        raise UserError("The model geometric has no weights; leave out --weights.")
    config = GeometricConfig()
    passes = choose_passes(passes, config.gaps)
    info = WeightsInfo(config, "geometric", flow={"estimator": "dis"})
    return Segmenter(
        *({}, info, predict_geometric, choose_precision(precision), passes),
        model="geometric",
        any_gaps=True,
    )


def _load_motion_grouping(
    weights: str | os.PathLike | None, precision: str | None, passes: int | None
) -> Segmenter:
    params, info = load_weights(_given(weights, "motion-grouping"), "motion_grouping")
    passes = choose_passes(passes, info.model.gaps)
    precision = choose_precision(precision)
    config = dataclasses.replace(info.model, compute_dtype=precision)
    return Segmenter(
        jax.device_put(params),
        info,
        make_motion_grouping(config),
        precision,
        passes,
        model="motion-grouping",
        any_gaps=True,
        flow_masks=make_flow_masks(config),
    )


def _load_mask_rcnn(
    weights: str | os.PathLike | None, precision: str | None, passes: int | None
) -> Segmenter:
    variables, info = load_weights(_given(weights, "mask-rcnn"), "mask_rcnn")
    passes = choose_passes(passes, info.model.gaps)
    sees_frames = info.model.inputs != "flow"
    if sees_frames and passes > 1:
        raise UserError("The model mask-rcnn with frames runs in one pass; leave out --passes.")
    precision = choose_precision(precision)
    config = dataclasses.replace(info.model, compute_dtype=precision)
    return Segmenter(
        *(jax.device_put(variables), info, make_mask_rcnn(config), precision, passes),
        model="mask-rcnn",
        sees_frames=sees_frames,
    )


def _given(weights: str | os.PathLike | None, model: str) -> str | os.PathLike:
    """The weights; raises UserError without any, because the package has none of this model."""
    if weights is None:
        config = model.replace("-", "_")
        raise UserError(
            f"The package has no weights of the model {model}; train them with "
            f"configs/{config}.py and give the file with --weights."
        )
    return weights


# By name for --model. A model takes windows of flow and returns layers, see `PredictFn`.
_LOADERS = {
    "oclr": _load_oclr,
    "motion-grouping": _load_motion_grouping,
    "mask-rcnn": _load_mask_rcnn,
    "geometric": _load_geometric,
}


def with_stored_gaps(segmenter: Segmenter, stored: Sequence[int]) -> Segmenter:
    """The same model for flow at those of its gaps that are stored, if it takes any of them."""
    gaps = tuple(gap for gap in segmenter.info.model.gaps if gap in stored)
    if not (segmenter.any_gaps and gaps):
        return segmenter
    model = dataclasses.replace(segmenter.info.model, gaps=gaps)
    return dataclasses.replace(segmenter, info=dataclasses.replace(segmenter.info, model=model))


def find_tracks(
    segmenter: Segmenter, flows: Iterable[FrameFlow], probabilities: ArrayFile | None = None
) -> tuple[list[Track], bool]:
    """Tracks the objects of a video, window by window; see `link_windows`.

    Windows in which nothing moves have no objects, and the model is not run on them.

    Args:
      flows: of every frame, in order; frames of a shot follow one another.
      probabilities: a file for the probabilities of the tracks; None if they are not needed.

    Returns the tracks, and whether anything in the video moves.
    """
    model, moves = segmenter.info.model, False

    def layers() -> Iterator[WindowLayers]:
        nonlocal moves
        for window in flow_windows(flows, model.frames, overlap_of(model)):
            moves |= not is_still(window.flow)
            yield window_layers(segmenter, window)

    return link_windows(layers(), probabilities), moves


def window_layers(segmenter: Segmenter, window: FlowWindow) -> WindowLayers:
    """The layers of a window, empty where nothing moves; the model is then not run."""
    if not is_still(window.flow):
        return predict_layers(segmenter, window)
    queries = segmenter.info.model.queries
    empty = np.zeros((window.count, *window.flow.shape[1:3], queries), np.float32)
    order = np.zeros(queries, np.float32)
    return WindowLayers(window.shot, window.start, empty, order, window.images)


def predict_windows(segmenter: Segmenter, flows: Iterable[FrameFlow]) -> Iterator[WindowLayers]:
    """Yields the layers of windows that do not overlap, as the published evaluation has them.

    The last window of a shot ends with its last frame, so it may share frames with the one before.
    """
    windows = flow_windows(flows, segmenter.info.model.frames)
    return (predict_layers(segmenter, window) for window in windows)


def flow_windows(flows: Iterable[FrameFlow], frames: int, overlap: int = 0) -> Iterator[FlowWindow]:
    """Cuts each shot of a video into windows of `frames` frames; see `stream_windows`."""
    for shot, flows_of_shot in groupby(flows, key=lambda flow: flow.shot):
        for _, window in stream_windows(flows_of_shot, frames, overlap):
            count = len({flow.frame for flow in window})  # a frame that repeats is padding
            yield stack_window(shot, window[:count], frames)


def stack_window(shot: int, flows: Sequence[FrameFlow], frames: int) -> FlowWindow:
    """A window of consecutive frames; up to `frames` of them, the last one is repeated."""
    flow = np.stack([flow.flow for flow in flows])
    padded = np.pad(flow, [(0, frames - len(flow))] + [(0, 0)] * 3, mode="edge")
    images = np.stack([flow.image for flow in flows])
    return FlowWindow(shot, flows[0].frame, len(flow), padded, images)


def predict_layers(segmenter: Segmenter, window: FlowWindow) -> WindowLayers:
    """Runs the model on one window, in all its passes; padding is left out of the result.

    Layers that are parts of one object are joined, if the weights ask for it; see `join_parts`.
    """
    count = window.count

    def predict(flow: Float32[np.ndarray, "n h w c"]) -> tuple[np.ndarray, np.ndarray]:
        # A reversed window is padded by its own last frame.
        padding = [(0, len(window.flow) - count)] + [(0, 0)] * 3
        inputs = [flow, window.images] if segmenter.sees_frames else [flow]
        padded = [np.pad(each, padding, mode="edge")[None] for each in inputs]
        probability, order = segmenter.predict(segmenter.params, *padded)
        return np.asarray(probability[0])[:count], np.asarray(order[0])

    gaps, passes = segmenter.info.model.gaps, segmenter.passes
    probability, order = predict_passes(predict, window.flow[:count], gaps, passes)
    flow = window.flow[:count]
    layers = WindowLayers(window.shot, window.start, probability, order, window.images, flow)
    return join_parts(layers) if segmenter.join_parts else layers


def overlap_of(model: FlowModelConfig) -> int:
    """Frames that neighbouring windows share."""
    return min(max(1, round(OVERLAP * model.frames)), model.frames - 1)


def is_still(flow: Float32[np.ndarray, "t h w c"]) -> bool:
    """Whether at least 99.5% of the flow is no longer than noise makes it."""
    return bool(np.percentile(np.hypot(flow[..., 0::2], flow[..., 1::2]), 99.5) < STILL_FLOW)

"""The model at work on a clip: windows of its flow, objects that are followed."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from oclr_jax.flow import FrameFlow
from oclr_jax.models.oclr import OCLR, OCLRConfig, composing_order
from oclr_jax.oclr.tracking import WindowLayers, link_windows
from oclr_jax.oclr.windows import stream_windows
from oclr_jax.tracks import Track
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights

# A window in which 99.5% of the flow is shorter than this (pixels of the model grid) shows nothing
# that moves. Noise and compression of a still 480p video stay below 0.25, a small object (0.8% of
# the frame) that moves by 2 of 854 pixels a frame reaches 0.34.
STILL_FLOW = 0.3
# Neighbouring windows share this part of their frames, by which objects are followed.
OVERLAP = 0.2

PredictFn = Callable[
    [Any, Float[Array, "b t h w c"]], tuple[Float[Array, "b t h w k"], Float[Array, "b k"]]
]


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """A model ready for use."""

    params: Any
    info: WeightsInfo
    predict: PredictFn


@lru_cache(maxsize=4)
def make_predict_fn(model: OCLR) -> PredictFn:
    """A pure compiled function (params, flow) -> (amodal probabilities, order).

    flow [b t h w c]: (u, v) per gap, pixels of the model grid. Amodal [b t h w k] in 0..1, layers
    in no given order; order [b k], lowest = front. One program per shape of `flow`.
    """

    @jax.jit
    def predict(params, flow):
        output = model.apply({"params": params}, flow)
        return jax.nn.sigmoid(output.amodal_logits), composing_order(model.config, output)

    return predict


def load_segmenter(weights: str | os.PathLike | None = None) -> Segmenter:
    """Loads weights by name or file, None for those of the package. UserError where it cannot."""
    params, info = load_weights(weights)
    config = dataclasses.replace(info.model, remat=False)
    if jax.default_backend() == "cpu":  # where bfloat16 is slow
        config = dataclasses.replace(config, compute_dtype="float32")
    return Segmenter(jax.device_put(params), info, make_predict_fn(OCLR(config)))


def find_tracks(segmenter: Segmenter, flows: Iterable[FrameFlow]) -> tuple[list[Track], bool]:
    """The objects of a video and whether anything moves in it; see `link_windows`.

    Windows in which nothing moves have no objects: the model is not asked.
    """
    moves = False

    def layers() -> Iterator[WindowLayers]:
        nonlocal moves
        model = segmenter.info.model
        for shot, flows_of_shot in groupby(flows, key=lambda flow: flow.shot):
            for _, window in stream_windows(flows_of_shot, model.frames, overlap_of(model)):
                frames = sorted({flow.frame for flow in window})  # repeated ones are padding
                flow = np.stack([flow.flow for flow in window])
                if is_still(flow):
                    probability = np.zeros((*flow.shape[:3], model.queries), np.float32)
                    order = np.zeros(model.queries, np.float32)
                else:
                    moves = True
                    probability, order = predict_window(segmenter, flow)
                yield WindowLayers(shot, frames[0], probability[: len(frames)], order)

    return link_windows(layers()), moves


def overlap_of(model: OCLRConfig) -> int:
    """Frames that neighbouring windows share."""
    return min(max(1, round(OVERLAP * model.frames)), model.frames - 1)


def predict_window(
    segmenter: Segmenter, flow: Float32[np.ndarray, "t h w c"]
) -> tuple[Float32[np.ndarray, "t h w k"], Float32[np.ndarray, "k"]]:
    """Amodal probabilities and order of one window; see `make_predict_fn`."""
    probability, order = segmenter.predict(segmenter.params, flow[None])
    return np.asarray(probability[0]), np.asarray(order[0])


def is_still(flow: Float32[np.ndarray, "t h w c"]) -> bool:
    """Whether hardly any flow vector is longer than noise makes it."""
    return bool(np.percentile(np.hypot(flow[..., 0::2], flow[..., 1::2]), 99.5) < STILL_FLOW)

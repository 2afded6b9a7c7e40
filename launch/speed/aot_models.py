"""The models that `aot` compiles: their tasks, batches and inference, without weights or data."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from configs import corrector, selector
from launch.speed.measure import model_config
from oclr_jax.models.backbones import OWN
from oclr_jax.models.corrector import Corrector, CorrectorConfig
from oclr_jax.models.dino import DINO, MODELS
from oclr_jax.models.oclr import OCLR
from oclr_jax.models.selector import Selector, SelectorConfig
from oclr_jax.oclr.predict import make_predict_fn
from oclr_jax.ops.corruption import Corruption
from oclr_jax.ops.losses import LossWeights
from oclr_jax.ops.refinement_losses import CorrectorLossWeights
from oclr_jax.train.task import Task, Variables
from oclr_jax.train.tasks.corrector import CorrectorTask, choose_exemplars
from oclr_jax.train.tasks.masks_and_frames import LAYERS, encode_clips, open_model_config
from oclr_jax.train.tasks.segmentation import Segmentation
from oclr_jax.train.tasks.selector import SelectorTask

NAMES = ("oclr", "selector", "corrector")
# Name of the backbone -> the architecture in `oclr_jax.models.dino.MODELS`.
_ARCHITECTURES = {"dino_vits16": "ViT-S/16", "dino_vits8": "ViT-S/8"}
Fields = dict[str, tuple[tuple[int, ...], Any]]


class Compiled(NamedTuple):
    """What is compiled for a model.

    task: its training task.
    frozen: shapes of the frozen parameters.
    fields: shape without the batch axis, and type, of every array of a batch.
    infer: (variables, batch) -> prediction, a pure function.
    """

    task: Task
    frozen: Any
    fields: Fields
    infer: Callable[[Variables, dict[str, Any]], Any]


def open_model(name: str, lanes: int, options: argparse.Namespace) -> Compiled:
    """One of `NAMES`, with variants of its configuration after a colon: `selector:own`.

    The options give the size of `oclr`, configs/ that of the others.
    """
    model, _, variants = name.partition(":")
    if model == "oclr":
        return _open_oclr(OCLR(model_config(options), lanes))
    return (_open_selector if model == "selector" else _open_corrector)(variants, options.dtype)


def _open_oclr(model: OCLR) -> Compiled:
    config = model.config
    shape = (config.frames, config.height, config.width)
    fields = {
        "flow": ((*shape, 2 * len(config.gaps)), np.float32),
        "amodal": ((*shape, config.queries), np.uint8),
        "modal": ((*shape, config.queries), np.uint8),
    }
    predict = make_predict_fn(model)
    task = Segmentation(model, LossWeights())
    return Compiled(
        task, {}, fields, lambda variables, batch: predict(variables.params, batch["flow"])
    )


def _open_selector(variants: str, dtype: str) -> Compiled:
    config = selector.get_config(variants)
    config.model.compute_dtype = dtype
    model = open_model_config(SelectorConfig, config)
    dino, frozen = _backbone(model)
    task = SelectorTask(model, Corruption(**config.corruption), dino, {}, config.data.frames)

    def infer(variables, batch):
        images, features = encode_clips(model, dino, variables, batch)
        masks = batch["modal"].astype(jnp.float32)
        return Selector(model).apply({"params": variables.params}, images, masks, features)

    return Compiled(task, frozen, _rgb_fields(model, config.data.frames), infer)


def _open_corrector(variants: str, dtype: str) -> Compiled:
    config = corrector.get_config(variants)
    config.model.compute_dtype = dtype
    model = open_model_config(CorrectorConfig, config)
    dino, frozen = _backbone(model)
    frames = config.data.frames
    weights, corruption = CorrectorLossWeights(**config.loss), Corruption(**config.corruption)
    noise = config.data.quality_noise
    task = CorrectorTask(model, weights, corruption, dino, {}, frames, noise)

    def infer(variables, batch):
        images, features = encode_clips(model, dino, variables, batch)
        masks, clips = batch["modal"].astype(jnp.float32), len(batch["modal"])
        quality = masks.mean(axis=(2, 3))  # any quality makes the same program
        exemplars = choose_exemplars(quality, masks, features, model.exemplars)
        windows = (x[:, : model.frames] for x in (images, masks, features))
        window = jnp.broadcast_to(jnp.arange(model.frames), (clips, model.frames))
        return Corrector(model).apply({"params": variables.params}, *windows, exemplars, window)

    return Compiled(task, frozen, _rgb_fields(model, frames), infer)


def _backbone(model: Any) -> tuple[Any, Any]:
    """Configuration of the frozen backbone, and the shapes of its variables."""
    if model.backbone == OWN:
        return None, {}
    dino = MODELS[_ARCHITECTURES[model.backbone]]
    image = jax.ShapeDtypeStruct((1, dino.patch, dino.patch, 3), np.float32)
    return dino, jax.eval_shape(DINO(dino).init, jax.random.key(0), image)


def _rgb_fields(model: Any, frames: int) -> Fields:
    shape = (frames, model.height, model.width)
    return {
        "rgb": ((*shape, 3), np.uint8),
        "modal": ((*shape, LAYERS), np.uint8),
        "predicted": ((*shape, LAYERS), np.uint8),
        "predicted_order": ((frames, LAYERS), np.float32),
    }

"""The segmentation task of the flow model: layers of moving objects from optical flow."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.flow.dis import DIS
from oclr_jax.models.layers.folding import lanes_here
from oclr_jax.models.oclr import OCLR, OCLRConfig, OCLROutput, composing_order
from oclr_jax.ops import layering, losses, matching
from oclr_jax.train.data import TrainingData
from oclr_jax.train.record.strips import image_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import LossAux, Metrics, Variables
from oclr_jax.train.tasks.loaders import (
    batching,
    data_of,
    open_training,
    open_validation,
    process_part,
)
from oclr_jax.types import Batch
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights


def model_config(config: ConfigDict) -> OCLRConfig:
    """The model of a training configuration, with "auto" precision resolved for this machine."""
    values = config.model.to_dict()
    if values["compute_dtype"] == "auto":
        values["compute_dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return OCLRConfig(**values)


def open_segmentation(config: ConfigDict) -> "Segmentation":
    """The task of a configuration from configs/oclr_flow.py."""
    model = OCLR(model_config(config), lanes_here())
    return Segmentation(model, losses.LossWeights(**config.loss))


def init_params(model: nn.Module, seed: int) -> Any:
    """Random parameters of `model`, the same for the same seed.

    They do not depend on the size of the clip, so the smallest clip is traced.
    """
    config = model.config
    flow = jnp.zeros((1, 2, config.stride, config.stride, 2 * len(config.gaps)))
    return jax.jit(model.init)(jax.random.key(seed), flow)["params"]


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """A `Task` with clips of flow as input, and masks and their order as output.

    The boundary term of the loss is a mean over the band pixels of all clips of a batch. Each clip
    has its own dropout key.

    Two metrics beside the terms of the loss show whether the transformer is alive: `token_spread`,
    the standard deviation of the encoder's tokens over a batch (1 at best), and `live_maps`, the
    fraction of the attention maps above 0. Both fall to 0 when it returns the same for every clip.
    """

    model: nn.Module
    weights: losses.LossWeights

    batch_fields: ClassVar = frozenset(Batch.__required_keys__)
    scores: ClassVar = ("loss", "modal_j", "amodal_j", "order_accuracy")
    best_score: ClassVar = "modal_j"
    higher_is_better: ClassVar = True
    curves: ClassVar = {
        "loss": ("train/loss", "train/bce", "train/boundary", "train/order", "validation/loss"),
        "score": ("validation/modal_j", "validation/amodal_j", "validation/order_accuracy"),
        "learning rate": ("train/learning_rate",),
    }

    def open_data(self, config: ConfigDict) -> TrainingData:
        """As `Task`: clips of a generated dataset, or rendered during training."""
        from data_pipelines.loaders.clip_augmentation import Augmentation
        from data_pipelines.loaders.clips import make_clip_loader

        data, model = config.data, self.model.config
        clips = {
            "frames": model.frames,
            "height": model.height,
            "width": model.width,
            "gaps": tuple(model.gaps),
        }
        options = {"flow": data.flow, "stride": data.stride, **clips}
        options["augmentation"] = Augmentation(rest=data.rest, swing=data.swing)
        if data.online:
            training = _open_online_clips(config, **options)
        else:
            extra = tuple(data.extra_datasets)
            training = open_training(make_clip_loader, config, extra_datasets=extra, **options)
        return data_of(training, open_validation(make_clip_loader, config, **clips))

    def init_variables(self, seed: int) -> Variables:
        """As `Task`."""
        return Variables(init_params(self.model, seed))

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        """As `Task`."""
        params, info = load_weights(path)
        return Variables(params), {"weights": info.name, **info.card}

    def loss_normalizer(self, part: Any) -> Int[Array, ""]:
        """As `Task`: the pixels of the boundary band."""
        masks = losses.supervised_masks(part["amodal"], part["modal"], self.weights)
        return losses.boundary_band(masks).sum()

    def loss(
        self,
        variables: Variables,
        part: Any,
        normalizer: Float[Array, ""],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], LossAux]:
        """As `Task`."""
        params = variables.params
        out, inside = _apply_to_clips(self.model, params, part["flow"], part["example_key"])
        loss, terms = losses.layered_loss(
            *(out.amodal_logits, out.order, part["amodal"], part["modal"], self.weights),
            *(inside["query_maps"], normalizer),
        )
        alive = (inside["attention_maps"] > 0).mean(dtype=jnp.float32)
        tokens = inside["encoded"].astype(jnp.float32)
        moments = tokens.mean(axis=(0, 1, 2, 3)), tokens.var(axis=(0, 1, 2, 3))
        metrics = {"loss": loss, **terms, "live_maps": alive}
        return loss, LossAux(metrics, {"token_spread": moments})

    def evaluate(self, variables: Variables, batch: Any) -> tuple[Metrics, dict[str, Array]]:
        """As `Task`; the prediction is binary masks.

        Masks are matched to the ground truth per clip by time-mean IoU, modal and amodal
        separately. `modal_j` and `amodal_j` are means over frames with any layer, of the mean J of
        the visible layers; `order_accuracy` is the fraction of overlapping pairs in the right
        order; `loss` is that of a clip without the query term, which only helps training.
        """
        out = self.model.apply({"params": variables.params}, batch["flow"])
        truth = batch["amodal"], batch["modal"]
        weights = dataclasses.replace(self.weights, query=0.0)
        loss, _ = losses.layered_loss(out.amodal_logits, out.order, *truth, weights)
        clips = jnp.float32(batch["flow"].shape[0])
        amodal = out.amodal_logits > 0
        depth = composing_order(self.model.config, out)
        modal = layering.hard_modal(amodal, depth[:, None])
        sums = {"loss_sum": loss * clips, "loss_count": clips}
        for name, masks in (("amodal", amodal), ("modal", modal)):
            iou, there = matching.matched_iou(masks, batch[name].astype(bool))
            per_frame = (iou * there).sum(axis=-1) / jnp.maximum(there.sum(axis=-1), 1)
            sums[f"{name}_j_sum"] = per_frame.sum()
            sums[f"{name}_j_count"] = there.any(axis=-1).sum().astype(jnp.float32)
        cost = matching.pairwise_bce(out.amodal_logits, batch["amodal"])
        order = matching.take_layers(depth, matching.match_layers(cost))
        overlap = losses.overlapping_pairs(batch["amodal"])
        right = overlap & (losses.depth_gaps(order) > 0)
        sums["order_accuracy_sum"] = right.sum().astype(jnp.float32)
        sums["order_accuracy_count"] = overlap.sum().astype(jnp.float32)
        return sums, {"amodal": amodal, "modal": modal}

    def draw(self, batch: Any, prediction: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`."""
        return image_strip(batch, prediction)

    def step_flops(self, examples: int) -> int:
        """As `Task`."""
        config = self.model.config
        shape = (1, config.frames, config.height, config.width, 2 * len(config.gaps))
        params = jax.eval_shape(lambda: init_params(self.model, 0))
        flow = jax.ShapeDtypeStruct(shape, jnp.float32)
        # Without the zeros of folded kernels.
        plain = OCLR(config)
        forward = matrix_flops(lambda p, x: plain.apply({"params": p}, x), params, flow)
        return 3 * examples * forward

    def export(
        self,
        path: str | os.PathLike,
        variables: Variables,
        name: str,
        card: dict[str, Any],
        metadata: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """As `Task`."""
        info = WeightsInfo(
            model=dataclasses.replace(self.model.config, compute_dtype="float32", remat=False),
            flow=metadata["flow"],
            data_version=metadata["data_version"],
            name=name,
            card=card,
        )
        save_weights(path, variables.params, info, dtype=dtype)


def _open_online_clips(config: ConfigDict, **options: Any) -> Any:
    """The loader of clips that are rendered during training; `options` of stored clips too."""
    from data_pipelines.builders.oclr_syn import OclrSyn, Rendering
    from data_pipelines.loaders.online import make_online_loader
    from data_pipelines.synthetic import open_sources

    data = config.data
    if data.extra_datasets:
        raise UserError("data.extra_datasets are stored data; leave it empty with data.online.")
    rendered = {each.name: each for each in OclrSyn.BUILDER_CONFIGS}
    if data.train not in rendered:
        raise UserError(f"There is no data {data.train!r} to render; choose from {list(rendered)}.")
    scene = rendered[data.train].scene
    sources = open_sources(data.images or None, data.silhouettes or None, data.videos or None)
    estimator = DIS(scene.render_height, scene.render_width)
    recipe = Rendering(rendered[data.train], config.seed, estimator, sources)
    return make_online_loader(recipe, **batching(config), **options, **process_part())


def _apply_to_clips(
    model: nn.Module, params: Any, flow: Float[Array, "b t h w c"], keys: Key[Array, "b"]
) -> tuple[OCLROutput, dict[str, Array]]:
    """The model's output and intermediates, each clip with its own dropout key."""

    def apply(flow, key):
        out, inside = model.apply(
            {"params": params},
            flow[None],
            train=True,
            rngs={"dropout": key},
            mutable=["intermediates"],
        )
        inside = {name: values[0] for name, values in inside["intermediates"].items()}
        return jax.tree.map(lambda x: x[0], (out, inside))

    return jax.vmap(apply)(flow, keys)

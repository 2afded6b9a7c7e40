"""The task of the flow model: layers of moving objects from optical flow."""

import dataclasses
import os
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8
from ml_collections import ConfigDict

from oclr_jax.models.oclr import OCLR, OCLRConfig, OCLROutput, composing_order
from oclr_jax.ops import layering, losses, matching
from oclr_jax.train.record.strips import image_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import Metrics, Moments
from oclr_jax.types import Batch
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights


def model_config(config: ConfigDict) -> OCLRConfig:
    """The model of a training configuration, "auto" precision resolved for this machine."""
    values = config.model.to_dict()
    if values["compute_dtype"] == "auto":
        values["compute_dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return OCLRConfig(**values)


def open_segmentation(config: ConfigDict) -> "Segmentation":
    """The task of a configuration as configs/oclr_flow.py makes it."""
    return Segmentation(OCLR(model_config(config)), losses.LossWeights(**config.loss))


def init_params(model: nn.Module, seed: int) -> Any:
    """Random parameters for `model`, the same for the same seed.

    They do not depend on the size of the clip, so the smallest clip is traced.
    """
    config = model.config
    flow = jnp.zeros((1, 2, config.stride, config.stride, 2 * len(config.gaps)))
    return jax.jit(model.init)(jax.random.key(seed), flow)["params"]


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """A `Task`: clips of flow in, masks and their order out.

    The boundary term of the loss is divided by the band pixels of all clips of a batch, and each
    clip has a dropout key of its own.

    Beside the terms of the loss, two metrics are signs that the transformer is alive:
    `token_spread`, by how much the encoder's tokens of a batch differ (standard deviation, 1 at
    best), and `live_maps`, the share of the attention maps above 0. Both go to 0 where it gives
    every clip the same.
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

    def init_params(self, seed: int) -> Any:
        """As `Task`."""
        return init_params(self.model, seed)

    def load_params(self, path: str) -> tuple[Any, dict[str, Any]]:
        """As `Task`."""
        params, info = load_weights(path)
        return params, {"weights": info.name, **info.card}

    def loss_unit(self, part: Any) -> Int[Array, ""]:
        """As `Task`: pixels of the boundary band."""
        masks = losses.supervised_masks(part["amodal"], part["modal"], self.weights)
        return losses.boundary_band(masks).sum()

    def loss(
        self, params: Any, part: Any, unit: Float[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Moments]]]:
        """As `Task`."""
        out, inside = _apply_to_clips(self.model, params, part["flow"], part["example_key"])
        loss, terms = losses.layered_loss(
            *(out.amodal_logits, out.order, part["amodal"], part["modal"], self.weights),
            *(inside["query_maps"], unit),
        )
        alive = (inside["attention_maps"] > 0).mean(dtype=jnp.float32)
        tokens = inside["encoded"].astype(jnp.float32)
        moments = tokens.mean(axis=(0, 1, 2, 3)), tokens.var(axis=(0, 1, 2, 3))
        return loss, ({"loss": loss, **terms, "live_maps": alive}, {"token_spread": moments})

    def evaluate(self, params: Any, batch: Any) -> tuple[Metrics, dict[str, Array]]:
        """As `Task`, with masks.

        Masks are matched to the ground truth per clip by time-mean IoU, modal and amodal apart. The
        sums hold, for `modal_j` and `amodal_j`, the J of frames (mean over the layers that are
        there) and how many frames have any; for `order_accuracy`, the overlapping pairs put in the
        right order and all of them; for `loss`, that of every clip, without the query term, which
        serves training.
        """
        out = self.model.apply({"params": params}, batch["flow"])
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

    def picture(self, batch: Any, shown: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`."""
        return image_strip(batch, shown)

    def step_flops(self, examples: int) -> int:
        """As `Task`."""
        config = self.model.config
        shape = (1, config.frames, config.height, config.width, 2 * len(config.gaps))
        params = jax.eval_shape(lambda: self.init_params(0))
        flow = jax.ShapeDtypeStruct(shape, jnp.float32)
        forward = matrix_flops(lambda p, x: self.model.apply({"params": p}, x), params, flow)
        return 3 * examples * forward

    def export(
        self,
        path: str | os.PathLike,
        params: Any,
        name: str,
        card: dict[str, Any],
        data: Any,
        dtype: str,
    ) -> None:
        """As `Task`."""
        info = WeightsInfo(
            model=dataclasses.replace(self.model.config, compute_dtype="float32", remat=False),
            flow=data.flow,
            data_version=data.version,
            name=name,
            card=card,
        )
        save_weights(path, params, info, dtype=dtype)


def _apply_to_clips(
    model: nn.Module, params: Any, flow: Float[Array, "b t h w c"], keys: Key[Array, "b"]
) -> tuple[OCLROutput, dict[str, Array]]:
    """The model's output and its intermediates, dropout drawn for each clip from its own key."""

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

"""The task of the mask selector: error maps of flow-predicted masks (second paper, section 3.2)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from oclr_jax.models.dino import DINOConfig
from oclr_jax.models.selector import CORRECT, Selector, SelectorConfig, SelectorOutput, init_params
from oclr_jax.ops.corruption import Corruption
from oclr_jax.ops.refinement_losses import error_map_loss, score_loss, true_error_map
from oclr_jax.ops.selection import selection_ap
from oclr_jax.train.data import TrainingData
from oclr_jax.train.record.strips import mask_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import LossAux, Metrics, Variables
from oclr_jax.train.tasks.masks_and_frames import (
    corrupted,
    encode_clips,
    matched_masks,
    object_iou,
    open_model_config,
    open_rgb_clips,
    validation_keys,
)
from oclr_jax.weights.backbones import load_backbone
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights


def open_selector(config: ConfigDict) -> "SelectorTask":
    """The task of a configuration from configs/selector.py."""
    model = open_model_config(SelectorConfig, config)
    frozen = load_backbone(model)
    return SelectorTask(
        model,
        Corruption(**config.corruption),
        frozen.config if frozen else None,
        frozen.variables if frozen else {},
        config.data.frames,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class SelectorTask:
    """A `Task` with frames and predicted masks as input, and error maps or scores as output.

    The loss is a mean over the objects of all clips of a batch. `ap` is the average precision of
    table 3 on the predicted masks, `corrupted_ap` that on corrupted ones; objects whose masks are
    equally good in all frames do not count.
    """

    config: SelectorConfig
    corruption: Corruption
    dino: DINOConfig | None  # the frozen backbone
    frozen: Any  # its variables
    frames: int  # of a clip

    batch_fields: ClassVar = frozenset({"rgb", "modal", "predicted", "predicted_order"})
    scores: ClassVar = ("loss", "ap", "corrupted_ap")
    best_score: ClassVar = "corrupted_ap"
    higher_is_better: ClassVar = True
    curves: ClassVar = {
        "loss": ("train/loss", "validation/loss"),
        "average precision": ("validation/ap", "validation/corrupted_ap"),
        "learning rate": ("train/learning_rate",),
    }

    def open_data(self, config: ConfigDict) -> TrainingData:
        """As `Task`: clips of a generated dataset with stored predicted masks."""
        return open_rgb_clips(config)

    def init_variables(self, seed: int) -> Variables:
        """As `Task`."""
        params = jax.jit(lambda: init_params(self.config, seed))()
        return Variables(params, {}, self.frozen)

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        """As `Task`; released `.pth` files too."""
        params, info = load_weights(path, "selector")
        return Variables(params, {}, self.frozen), {"weights": info.name, **info.card}

    def loss_normalizer(self, part: Any) -> Int[Array, ""]:
        """As `Task`: the objects that are visible anywhere in their clip."""
        return _present(part).sum()

    def loss(
        self,
        variables: Variables,
        part: Any,
        normalizer: Float[Array, ""],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], LossAux]:
        """As `Task`."""
        masks, truth = matched_masks(part)
        keys = jax.vmap(jax.random.split)(part["example_key"])
        masks = corrupted(keys[:, 0], masks, truth, self.corruption)
        images, features = encode_clips(self.config, self.dino, variables, part)

        def apply(images, masks, features, key):
            output = Selector(self.config).apply(
                {"params": variables.params},
                *(images[None], masks[None].astype(jnp.float32), features[None]),
                train=True,
                rngs={"dropout": key},
            )
            return jax.tree.map(lambda x: x[0], output)

        # Each clip has its own dropout key.
        output = jax.vmap(apply)(images, masks, features, keys[:, 1])
        loss = self._loss(output, masks, truth, _present(part), normalizer)
        return loss, LossAux({"loss": loss})

    def evaluate(self, variables: Variables, batch: Any) -> tuple[Metrics, dict[str, Array]]:
        """As `Task`; the prediction is the corrupted masks and the pixels where they look wrong."""
        masks, truth = matched_masks(batch)
        images, features = encode_clips(self.config, self.dino, variables, batch)
        keys, sums = validation_keys(truth), {}
        for name in ("ap", "corrupted_ap"):
            if name == "corrupted_ap":
                masks = corrupted(keys, masks, truth, self.corruption)
            output = Selector(self.config).apply(
                {"params": variables.params}, images, masks.astype(jnp.float32), features
            )
            sums |= self._precision_sums(name, output, masks, truth)
        present = _present(batch)
        count = present.sum().astype(jnp.float32)
        sums["loss_sum"] = count * self._loss(output, masks, truth, present, count)
        sums["loss_count"] = count
        prediction = {"masks": masks, "wrong": jnp.zeros_like(masks)}
        if output.error_logits is not None:
            prediction["wrong"] = jax.nn.softmax(output.error_logits)[..., CORRECT] < 0.5
        return sums, prediction

    def draw(self, batch: Any, prediction: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`. Rows: frames, true masks, corrupted masks, pixels that look wrong."""
        rows = [batch["modal"][0] > 0, prediction["masks"][0], prediction["wrong"][0]]
        return mask_strip(np.asarray(batch["rgb"][0]), [np.asarray(row) for row in rows])

    def step_flops(self, examples: int) -> int:
        """As `Task`; a frozen backbone counts once."""
        size = (1, self.frames, self.config.height, self.config.width)
        masks = jax.ShapeDtypeStruct((*size, 3), jnp.float32)
        part = {"rgb": jax.ShapeDtypeStruct((*size, 3), jnp.uint8)}
        variables = jax.eval_shape(lambda: self.init_variables(0))

        def encode(variables, part):
            return encode_clips(self.config, self.dino, variables, part)

        def judge(params, images, masks, features):
            return Selector(self.config).apply({"params": params}, images, masks, features)

        images, features = jax.eval_shape(encode, variables, part)
        backbone = matrix_flops(encode, variables, part) * (3 if self.dino is None else 1)
        model = matrix_flops(judge, variables.params, images, masks, features)
        return examples * (3 * model + backbone)

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
        model = dataclasses.replace(self.config, compute_dtype="float32")
        card = {**card, "data_version": metadata["data_version"]}
        save_weights(path, variables.params, WeightsInfo(model, name, card=card), dtype=dtype)

    def _loss(
        self,
        output: SelectorOutput,
        masks: Bool[Array, "b t h w k"],
        truth: Bool[Array, "b t h w k"],
        present: Bool[Array, "b k"],
        normalizer: Float[Array, ""],
    ) -> Float[Array, ""]:
        if output.error_logits is None:
            return score_loss(output.quality, object_iou(masks, truth)[0], present, normalizer)
        wrong = true_error_map(masks, truth)
        return error_map_loss(output.error_logits, wrong, present, normalizer)

    def _precision_sums(
        self,
        name: str,
        output: SelectorOutput,
        masks: Bool[Array, "b t h w k"],
        truth: Bool[Array, "b t h w k"],
    ) -> Metrics:
        iou, _ = object_iou(masks, truth)
        counted = iou.max(axis=1) > iou.min(axis=1)

        def precision(quality, iou):
            return selection_ap(quality, iou, self.config.exemplars)

        per_object = jax.vmap(jax.vmap(precision, in_axes=1), in_axes=0)(output.quality, iou)
        total = jnp.where(counted, per_object, 0.0).sum()
        return {f"{name}_sum": total, f"{name}_count": counted.sum().astype(jnp.float32)}


def _present(part: Mapping[str, Array]) -> Bool[Array, "b k"]:
    """Whether each true object is visible anywhere in its clip."""
    return part["modal"].astype(bool).any(axis=(1, 2, 3))

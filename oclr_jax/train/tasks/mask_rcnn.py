"""The task of Mask R-CNN: visible masks of objects in single frames of generated clips."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8
from ml_collections import ConfigDict

from oclr_jax.models.baselines.mask_rcnn import (
    MaskRCNN,
    MaskRCNNConfig,
    detect,
    init_variables,
    model_input,
    propose,
)
from oclr_jax.models.baselines.resnet_fpn import STRIDES
from oclr_jax.ops import detection_losses as losses
from oclr_jax.ops import layering, matching
from oclr_jax.ops.boxes import boxes_of_masks, make_anchors
from oclr_jax.show.flow_color import flow_to_rgb
from oclr_jax.train.data import TrainingData
from oclr_jax.train.record.strips import mask_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import LossAux, Metrics, Variables
from oclr_jax.train.tasks.loaders import data_of, open_training, open_validation
from oclr_jax.train.tasks.masks_and_frames import j_sums, open_model_config
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights

_OBJECT_SHARE = {"anchors": 0.5, "proposals": 0.25}  # of the samples, at most


@dataclasses.dataclass(frozen=True)
class MaskRCNNLoss:
    """Weights of the terms, all 1 as published, and samples of each frame."""

    objectness: float = 1.0
    proposal_box: float = 1.0
    score: float = 1.0
    box: float = 1.0
    mask: float = 1.0
    anchors: int = 256  # that the proposals are learned from
    proposals: int = 64  # that boxes and masks are learned from; masks from a quarter of them


def open_mask_rcnn(config: ConfigDict) -> "MaskRCNNTask":
    """The task of a configuration from configs/mask_rcnn.py."""
    model = open_model_config(MaskRCNNConfig, config)
    return MaskRCNNTask(model, MaskRCNNLoss(**config.loss))


class _Truth(NamedTuple):
    """The objects of n frames."""

    masks: Bool[Array, "n h w k"]
    boxes: Float[Array, "n k 4"]
    there: Bool[Array, "n k"]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskRCNNTask:
    """A `Task` with frames of flow as input, and at most three objects in each as output.

    Batch statistics are the model state. The loss is a mean over frames. `frame_j` is the mean IoU
    of the visible objects with detections that are matched to them in each frame.
    """

    config: MaskRCNNConfig
    weights: MaskRCNNLoss

    scores: ClassVar = ("frame_j", "detections")
    best_score: ClassVar = "frame_j"
    higher_is_better: ClassVar = True
    curves: ClassVar = {
        "loss": ("train/loss",),
        "terms": tuple(
            f"train/{name}" for name in ("objectness", "proposal_box", "score", "box", "mask")
        ),
        "score": ("validation/frame_j",),
        "learning rate": ("train/learning_rate",),
    }

    @property
    def batch_fields(self) -> frozenset[str]:
        """As `Task`."""
        frames = {"rgb"} if self.config.inputs == "rgb+flow" else set()
        return frozenset({"flow", "modal"} | frames)

    def open_data(self, config: ConfigDict) -> TrainingData:
        """As `Task`: frames of a generated dataset, with RGB where the model sees it."""
        from data_pipelines.loaders.clips import make_clip_loader
        from data_pipelines.loaders.rgb_clips import make_rgb_clip_loader

        model = self.config
        rgb = model.inputs == "rgb+flow"
        make = make_rgb_clip_loader if rgb else make_clip_loader
        options = {
            "frames": config.data.frames,
            "height": model.height,
            "width": model.width,
            **({} if rgb else {"gaps": tuple(model.gaps)}),
        }
        return data_of(
            open_training(make, config, **options), open_validation(make, config, **options)
        )

    def init_variables(self, seed: int) -> Variables:
        """As `Task`."""
        return _split(jax.jit(lambda: init_variables(self.config, seed))())

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        """As `Task`."""
        variables, info = load_weights(path, "mask_rcnn")
        return _split(variables), {"weights": info.name, **info.card}

    def loss_normalizer(self, part: Any) -> Float[Array, ""]:
        """As `Task`: every frame counts the same."""
        return jnp.ones(())

    def loss(
        self,
        variables: Variables,
        part: Any,
        normalizer: Float[Array, ""],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], LossAux]:
        """As `Task`."""
        config, model = self.config, MaskRCNN(self.config, axis_name)
        inputs, truth = _frames(config, part)
        given = _join(variables)
        levels, state = model.apply(
            given, inputs, train=True, mutable=["batch_stats"], method="pyramid"
        )

        def head(name: str, *arguments: Any) -> Any:
            return model.apply({"params": variables.params}, *arguments, method=name)

        scored = head("score_anchors", levels)
        proposals = propose(config, inputs.shape[1:3], *scored)
        # True boxes are proposals too, so that the second stage learns from the first step on.
        boxes = jnp.concatenate([truth.boxes, proposals.boxes], axis=1)
        valid = jnp.concatenate([truth.there, proposals.valid], axis=1)
        keys = jax.vmap(lambda key: jax.random.split(key, 2))(_frame_keys(part))
        samples = jax.vmap(self._sample_proposals)(keys[:, 0], boxes, valid, truth)
        chosen = jnp.take_along_axis(boxes, samples.index[..., None], axis=1)
        logits, deltas = head("classify", levels, chosen)
        objects = int(_OBJECT_SHARE["proposals"] * self.weights.proposals)
        first = jax.tree.map(lambda x: x[:, :objects], samples)
        masks = head("mask_logits", levels, chosen[:, :objects])
        objectness, proposal_box = jax.vmap(self._proposal_loss)(keys[:, 1], *scored, truth)
        score, box = jax.vmap(lambda *arguments: losses.box_loss(*arguments, losses.HEAD_SCALE))(
            logits, deltas, samples, chosen, truth.boxes
        )
        mask = jax.vmap(losses.mask_loss)(masks, first, chosen[:, :objects], truth.masks)
        terms = {
            "objectness": objectness,
            "proposal_box": proposal_box,
            "score": score,
            "box": box,
            "mask": mask,
        }
        terms = {name: value.mean() for name, value in terms.items()}
        loss = sum(getattr(self.weights, name) * value for name, value in terms.items())
        return loss, LossAux({"loss": loss, **terms}, {}, dict(state))

    def _sample_proposals(
        self, key: Key[Array, ""], boxes: Array, valid: Array, truth: _Truth
    ) -> losses.Samples:
        """Boxes of a frame from which the second stage learns."""
        label, object = losses.label_proposals(boxes, valid, truth.boxes, truth.there)
        count = self.weights.proposals
        objects = int(_OBJECT_SHARE["proposals"] * count)
        return losses.sample_boxes(key, label, object, count, objects)

    def _proposal_loss(
        self, key: Key[Array, ""], logits: list[Array], deltas: list[Array], truth: _Truth
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The loss of the first stage in a frame."""
        anchors = jnp.concatenate(make_anchors(*truth.masks.shape[:2], STRIDES))
        label, object = losses.label_anchors(anchors, truth.boxes, truth.there)
        count = self.weights.anchors
        objects = int(_OBJECT_SHARE["anchors"] * count)
        samples = losses.sample_boxes(key, label, object, count, objects)
        logits, deltas = (jnp.concatenate(each)[samples.index] for each in (logits, deltas))
        return losses.box_loss(logits, deltas, samples, anchors[samples.index], truth.boxes)

    def evaluate(self, variables: Variables, batch: Any) -> tuple[Metrics, Bool[Array, "n h w k"]]:
        """As `Task`; the prediction is visible binary masks, matched to the true objects."""
        inputs, truth = _frames(self.config, batch)
        found = detect(self.config, _join(variables), inputs)
        masks = layering.hard_modal(found.masks[:, None] > 0.5, -found.scores[:, None])
        masks = _as_many(masks, truth.masks.shape[-1])
        iou = matching.pairwise_iou(masks, truth.masks[:, None])[:, 0]
        masks = matching.take_layers(masks, matching.match_layers(-iou))
        frames = jnp.float32(len(inputs))
        sums = j_sums("frame_j", masks, truth.masks[:, None])
        sums["detections_sum"] = (found.scores > 0).sum().astype(jnp.float32)
        sums["detections_count"] = frames
        return sums, masks[:, 0]

    def draw(self, batch: Any, prediction: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`. Rows: flow of the first gap, true masks, detections."""
        flow = np.asarray(batch["flow"][0])
        pictures = np.stack([flow_to_rgb(frame[..., :2]) for frame in flow])
        truth = np.asarray(batch["modal"][0]) > 0
        return mask_strip(pictures, [truth, np.asarray(prediction)[: len(flow)]])

    def step_flops(self, examples: int) -> int:
        """As `Task`; for one frame of each example, with the boxes of inference."""
        config = self.config
        inputs = jax.ShapeDtypeStruct(
            (1, config.height, config.width, config.channels), jnp.float32
        )
        variables = jax.eval_shape(lambda: init_variables(config, 0))
        forward = matrix_flops(lambda v, x: detect(config, v, x), variables, inputs)
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
        """As `Task`; batch statistics are in the file too."""
        info = WeightsInfo(
            model=dataclasses.replace(self.config, compute_dtype="float32"),
            flow=metadata["flow"],
            data_version=metadata["data_version"],
            name=name,
            card=card,
        )
        save_weights(path, _join(variables), info, dtype=dtype)


def _split(variables: dict[str, Any]) -> Variables:
    return Variables(variables["params"], {"batch_stats": variables["batch_stats"]})


def _join(variables: Variables) -> dict[str, Any]:
    return {"params": variables.params, **variables.model_state}


def _frames(config: MaskRCNNConfig, part: Mapping[str, Array]) -> tuple[Array, _Truth]:
    """Input and true objects of all frames of all clips."""

    def flat(name: str) -> Array:
        return part[name].reshape(-1, *part[name].shape[2:])

    rgb = flat("rgb") if config.inputs == "rgb+flow" else None
    masks = flat("modal") > 0
    return model_input(config, flat("flow"), rgb), _Truth(masks, *jax.vmap(boxes_of_masks)(masks))


def _frame_keys(part: Mapping[str, Array]) -> Key[Array, "n"]:
    """A random key for each frame, from that of its clip."""
    frames = part["flow"].shape[1]
    return jax.vmap(lambda key: jax.random.split(key, frames))(part["example_key"]).reshape(-1)


def _as_many(masks: Bool[Array, "n t h w d"], count: int) -> Bool[Array, "n t h w {count}"]:
    """As many layers as there are objects; further ones are empty or left out."""
    missing = max(count - masks.shape[-1], 0)
    return jnp.pad(masks[..., :count], [(0, 0)] * 4 + [(0, missing)])

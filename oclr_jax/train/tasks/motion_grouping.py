"""The task of Motion Grouping: self-supervised on videos, or supervised on generated clips."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.models.baselines.motion_grouping import (
    CHANNELS,
    MotionGrouping,
    MotionGroupingConfig,
    MotionGroupingOutput,
    init_params,
    model_input,
)
from oclr_jax.ops import matching
from oclr_jax.ops import motion_grouping_losses as losses
from oclr_jax.show.flow_color import flow_to_rgb
from oclr_jax.train.data import TrainingData
from oclr_jax.train.record.strips import mask_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import LossAux, Metrics, Variables
from oclr_jax.train.tasks.loaders import (
    batching,
    data_of,
    open_training,
    open_validation,
    process_part,
)
from oclr_jax.train.tasks.masks_and_frames import open_model_config
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights

_STORED_GAPS = {1, -1}  # of generated datasets


def open_motion_grouping(config: ConfigDict) -> "MotionGroupingTask":
    """The task of a configuration from configs/motion_grouping.py.

    Raises:
      UserError: the settings make no model, or the supervised variant is to learn from videos.
    """
    weights = losses.MotionGroupingWeights(**config.loss)
    if config.data.videos and weights.masks:
        raise UserError("Videos have no true masks; leave data.videos or loss.masks at nothing.")
    if weights.grow_every < 1:
        raise UserError(f"loss.grow_every is {weights.grow_every}; it must be at least 1.")
    return MotionGroupingTask(open_model_config(MotionGroupingConfig, config), weights)


@dataclasses.dataclass(frozen=True, eq=False)
class MotionGroupingTask:
    """A `Task` with two flows of the same frame as input, and the masks of slots as output.

    The two flows of a sample are those of the two gaps in a batch's channels. The weights of the
    small terms grow with the number of steps, which is the model state. The reported losses are
    those with the weights of the first step. `j` is the mean IoU of the objects with their slots,
    matched in each flow; only data with true masks has it.
    """

    config: MotionGroupingConfig
    weights: losses.MotionGroupingWeights

    scores: ClassVar = ("loss", "reconstruction", "entropy", "consistency", "j")
    curves: ClassVar = {
        "loss": ("train/loss", "validation/loss"),
        "terms": ("train/reconstruction", "train/entropy", "train/consistency"),
        "score": ("validation/j",),
        "learning rate": ("train/learning_rate",),
    }

    @property
    def supervised(self) -> bool:
        """Whether true masks are learned from."""
        return self.weights.masks > 0

    @property
    def batch_fields(self) -> frozenset[str]:
        """As `Task`."""
        return frozenset({"flow", "modal"} if self.supervised else {"flow"})

    @property
    def best_score(self) -> str:
        """As `Task`; without supervision no true mask may choose a checkpoint."""
        return "j" if self.supervised else "loss"

    @property
    def higher_is_better(self) -> bool:
        """As `Task`."""
        return self.supervised

    def open_data(self, config: ConfigDict) -> TrainingData:
        """As `Task`: the flow of a folder of videos, or clips of a generated dataset."""
        options = {
            "gaps": tuple(self.config.gaps),
            "height": self.config.height,
            "width": self.config.width,
        }
        open_loaders = _open_videos if config.data.videos else _open_clips
        return data_of(*open_loaders(config, **options))

    def init_variables(self, seed: int) -> Variables:
        """As `Task`."""
        params = jax.jit(lambda: init_params(self.config, seed))()
        return Variables(params, {"steps": jnp.zeros((), jnp.float32)})

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        """As `Task`; published checkpoints too."""
        params, info = load_weights(path, "motion_grouping")
        return Variables(params), {"weights": info.name, **info.card}

    def loss_normalizer(self, part: Any) -> Float[Array, ""]:
        """As `Task`: every flow counts the same."""
        return jnp.ones(())

    def loss(
        self,
        variables: Variables,
        part: Any,
        normalizer: Float[Array, ""],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], LossAux]:
        """As `Task`."""
        steps = variables.model_state["steps"]
        terms, _ = self._terms(variables.params, part)
        growth = self.weights.growth ** jnp.floor(steps / self.weights.grow_every)
        total = sum(
            value * (growth if name in ("entropy", "consistency") else 1.0)
            for name, value in self._weighted(terms).items()
        )
        metrics = {"loss": sum(self._weighted(terms).values()), **terms, "growth": growth}
        return total, LossAux(metrics, {}, {"steps": steps + 1})

    def evaluate(self, variables: Variables, batch: Any) -> tuple[Metrics, Array]:
        """As `Task`; the prediction is binary masks of the slots, `n 2 h w k`."""
        terms, output = self._terms(variables.params, batch)
        slots = self.config.slots
        binary = jax.nn.one_hot(output.masks.argmax(axis=-1), slots, dtype=bool)
        flows = jnp.float32(len(binary))
        terms["loss"] = sum(self._weighted(terms).values())
        sums = {}
        for name in ("loss", "reconstruction", "entropy", "consistency"):
            sums |= {f"{name}_sum": terms[name] * flows, f"{name}_count": flows}
        sums |= {"j_sum": jnp.zeros(()), "j_count": jnp.zeros(())}
        if "modal" in batch:
            truth = losses.true_masks(_per_flow(batch["modal"]), slots) > 0
            iou = matching.pairwise_iou(binary[:, None], truth[:, None])[:, 0]
            matched = matching.match_layers(-iou)
            own = jnp.take_along_axis(iou, matched[:, None, :], axis=1)[:, 0]
            there = truth.any(axis=(1, 2)).at[:, -1].set(False)  # the background does not count
            per_flow = (own * there).sum(axis=-1) / jnp.maximum(there.sum(axis=-1), 1)
            sums["j_sum"] = per_flow.sum()
            sums["j_count"] = there.any(axis=-1).sum().astype(jnp.float32)
        return sums, binary.reshape(-1, 2, *binary.shape[1:])

    def draw(self, batch: Any, prediction: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`. Rows: flow at the first gap, masks from it, masks from the other gap."""
        flow = np.asarray(batch["flow"][0])
        pictures = np.stack([flow_to_rgb(frame[..., :2]) for frame in flow])
        prediction = np.asarray(prediction)[: len(flow)]
        return mask_strip(pictures, [prediction[:, 0], prediction[:, 1]])

    def step_flops(self, examples: int) -> int:
        """As `Task`; for one frame, that is two flows, of each example."""
        shape = (2, self.config.height, self.config.width, CHANNELS[self.config.sees])
        params = jax.eval_shape(lambda: init_params(self.config, 0))
        inputs = jax.ShapeDtypeStruct(shape, jnp.float32)
        model = MotionGrouping(self.config)
        return (
            3 * examples * matrix_flops(lambda p, x: model.apply({"params": p}, x), params, inputs)
        )

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
            model=dataclasses.replace(self.config, compute_dtype="float32"),
            flow=metadata["flow"],
            data_version=metadata["data_version"],
            name=name,
            card=card,
        )
        save_weights(path, variables.params, info, dtype=dtype)

    def _terms(
        self, params: Any, part: Mapping[str, Array]
    ) -> tuple[dict[str, Array], MotionGroupingOutput]:
        """The terms of the loss without weights, and the output for the 2n flows of n frames."""
        flow = part["flow"]
        *_, height, width, _ = flow.shape
        flow = jnp.moveaxis(flow.reshape(-1, height, width, 2, 2), 3, 1)
        inputs = model_input(self.config, flow.reshape(-1, height, width, 2))
        output = MotionGrouping(self.config).apply({"params": params}, inputs)
        masks = output.masks
        terms = {
            "reconstruction": losses.reconstruction_loss(inputs, output.combined),
            "entropy": losses.entropy_loss(masks),
            "consistency": losses.consistency_loss(masks.reshape(-1, 2, *masks.shape[1:])),
        }
        if self.supervised:
            truth = losses.true_masks(_per_flow(part["modal"]), self.config.slots)
            terms["masks"] = losses.mask_loss(masks, truth)
        return terms, output

    def _weighted(self, terms: dict[str, Array]) -> dict[str, Array]:
        return {name: getattr(self.weights, name) * value for name, value in terms.items()}


def _per_flow(masks: Array) -> Array:
    """Masks `b t h w k` of frames for each of their two flows, `2bt h w k`."""
    return jnp.repeat(masks.reshape(-1, *masks.shape[2:]), 2, axis=0)


def _open_videos(config: ConfigDict, **options: Any) -> tuple[Any, Any]:
    from data_pipelines.loaders.video_flows import make_video_flow_loaders

    cache = os.path.join(config.data.dir, "video_flows")
    options = {**options, **batching(config), **process_part()}
    return make_video_flow_loaders(config.data.videos, config.data.estimator, cache, **options)


def _open_clips(config: ConfigDict, **options: Any) -> tuple[Any, Any]:
    from data_pipelines.loaders.clips import make_clip_loader

    if set(options["gaps"]) != _STORED_GAPS:
        raise UserError(
            "Generated datasets have flow at gaps 1 and -1; give a folder of videos with "
            "--config.data.videos, or use the variant synthetic or supervised."
        )
    options["frames"] = config.data.frames
    training = open_training(make_clip_loader, config, **options)
    return training, open_validation(make_clip_loader, config, **options)

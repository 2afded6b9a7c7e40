"""The optical-flow task of RAFT-small: flow between pairs of frames (RAFT, ECCV 2020)."""

import dataclasses
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.flow.raft import ITERATIONS
from oclr_jax.models.raft import MIN_SIDE, RAFT, STRIDE, RAFTConfig
from oclr_jax.ops.flow_losses import end_point_errors, learned_vectors, sequence_loss
from oclr_jax.train.data import TrainingData
from oclr_jax.train.record.strips import pair_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import LossAux, Metrics, Variables
from oclr_jax.train.tasks.loaders import data_of, open_training, open_validation
from oclr_jax.types import FlowBatch
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights


def open_optical_flow(config: ConfigDict) -> "OpticalFlow":
    """The task of a configuration from configs/raft.py.

    Raises:
      UserError: the model is not RAFT-small, or the crop does not fit it.
    """
    values = config.model.to_dict()
    if values["compute_dtype"] == "auto":
        values["compute_dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = RAFTConfig(**values)
    if not model.small:
        raise UserError(
            "RAFT has batch norm and is not trained here; train RAFT-small, with "
            "--config.model.small=True."
        )
    crop = tuple(config.data.crop)
    if any(side % STRIDE or side < MIN_SIDE for side in crop):
        raise UserError(
            f"RAFT does not take a crop of {'x'.join(map(str, crop))}; choose for data.crop "
            f"multiples of {STRIDE} from {MIN_SIDE}."
        )
    return OpticalFlow(RAFT(model), crop, config.loss.gamma, config.loss.iterations)


@dataclasses.dataclass(frozen=True, eq=False)
class OpticalFlow:
    """A `Task` with pairs of frames as input, and the flow from first to second as output.

    The loss is a mean over the flow vectors of all pairs of a batch. `epe` is in pixels, `over_1px`
    and `over_3px` are fractions of vectors, `fl_all` is in percent. In training they are those of
    the last refinement iteration.
    """

    model: nn.Module
    crop: tuple[int, int]  # rows and columns of training pairs
    gamma: float  # weight of an iteration's error relative to the next one's
    iterations: int  # of refinement, in training

    batch_fields: ClassVar = frozenset(FlowBatch.__required_keys__)
    scores: ClassVar = ("epe", "over_1px", "over_3px", "fl_all", "dis_epe")
    best_score: ClassVar = "epe"
    higher_is_better: ClassVar = False
    curves: ClassVar = {
        "loss": ("train/loss",),
        "end-point error in pixels": ("train/epe", "validation/epe", "validation/dis_epe"),
        "fraction of vectors": ("validation/over_1px", "validation/over_3px"),
        "learning rate": ("train/learning_rate",),
    }

    def open_data(self, config: ConfigDict) -> TrainingData:
        """As `Task`: pairs of frames of a generated dataset."""
        from data_pipelines.loaders.pairs import make_pair_loader

        return data_of(
            open_training(make_pair_loader, config, crop=self.crop),
            open_validation(make_pair_loader, config),
        )

    def init_variables(self, seed: int) -> Variables:
        """As `Task`; the parameters do not depend on the size of the frames."""
        frame = jnp.zeros((1, MIN_SIDE, MIN_SIDE, 3))
        return Variables(jax.jit(self.model.init)(jax.random.key(seed), frame, frame)["params"])

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        """As `Task`; published `.pth` files too."""
        variables, info = load_weights(path, "raft")
        return Variables(variables["params"]), {"weights": info.name, **info.card}

    def loss_normalizer(self, part: Any) -> Int[Array, ""]:
        """As `Task`: the flow vectors that supervise."""
        return learned_vectors(part["flow"], part["valid"]).sum()

    def loss(
        self,
        variables: Variables,
        part: Any,
        normalizer: Float[Array, ""],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], LossAux]:
        """As `Task`."""
        flows = self._apply(variables.params, part["first"], part["second"], self.iterations)
        loss = sequence_loss(flows, part["flow"], part["valid"], self.gamma, normalizer)
        used = learned_vectors(part["flow"], part["valid"])
        sums = end_point_errors(flows[-1], part["flow"], used)
        names = ("epe", "over_1px", "over_3px")
        metrics = {name: sums[name] / jnp.maximum(normalizer, 1) for name in names}
        return loss, LossAux({"loss": loss, **metrics})

    def evaluate(self, variables: Variables, batch: Any) -> tuple[Metrics, Float[Array, "b h w 2"]]:
        """As `Task`; the prediction is the flow, after as many iterations as `oclr flow` runs.

        Frames are padded to a size that RAFT takes, as there. `dis_epe` is the error of DIS between
        the same frames, from the dataset; where there is none, its count is 0.
        """
        height, width = batch["valid"].shape[1:]
        pad = [(0, max(-side % STRIDE, MIN_SIDE - side)) for side in (height, width)]
        frames = (
            jnp.pad(batch[name], ((0, 0), *pad, (0, 0)), mode="edge")
            for name in ("first", "second")
        )
        flow = self._apply(variables.params, *frames, ITERATIONS)[-1][:, :height, :width]
        sums = _with_counts(end_point_errors(flow, batch["flow"], batch["valid"]))
        if "estimated" in batch:
            dis = end_point_errors(batch["estimated"], batch["flow"], batch["valid"])
            sums |= _with_counts({"dis_epe": dis["epe"], "count": dis["count"]})
        else:
            sums |= {"dis_epe_sum": jnp.float32(0), "dis_epe_count": jnp.float32(0)}
        return sums, flow

    def draw(self, batch: Any, prediction: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`."""
        return pair_strip(batch, prediction)

    def step_flops(self, examples: int) -> int:
        """As `Task`."""
        params = jax.eval_shape(lambda: self.init_variables(0)).params
        frame = jax.ShapeDtypeStruct((1, *self.crop, 3), jnp.uint8)
        forward = partial(self._apply, iterations=self.iterations)
        return 3 * examples * matrix_flops(forward, params, frame, frame)

    def export(
        self,
        path: str | os.PathLike,
        variables: Variables,
        name: str,
        card: dict[str, Any],
        metadata: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """As `Task`: a file for `--flow raft-small:FILE`."""
        model = dataclasses.replace(self.model.config, compute_dtype="float32")
        card = {**card, "data_version": metadata["data_version"]}
        info = WeightsInfo(model=model, name=name, card=card)
        save_weights(path, {"params": variables.params}, info, dtype=dtype)

    def _apply(
        self,
        params: Any,
        first: UInt8[Array, "b h w 3"],
        second: UInt8[Array, "b h w 3"],
        iterations: int,
    ) -> Float[Array, "steps b h w 2"]:
        """The flow after every refinement iteration."""
        frames = (frame.astype(jnp.float32) / 255 for frame in (first, second))
        return self.model.apply({"params": params}, *frames, iterations).flow


def _with_counts(sums: dict[str, Array]) -> Metrics:
    """Sums over the same vectors as `x_sum` and `x_count`."""
    count = sums["count"].astype(jnp.float32)
    found = {}
    for name, total in sums.items():
        if name != "count":
            found |= {f"{name}_sum": total.astype(jnp.float32), f"{name}_count": count}
    return found

"""The task of RAFT-small: optical flow from pairs of frames (RAFT, ECCV 2020)."""

import dataclasses
import os
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
from oclr_jax.train.record.strips import pair_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import Metrics, Moments
from oclr_jax.types import FlowBatch
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights


def open_optical_flow(config: ConfigDict) -> "OpticalFlow":
    """The task of a configuration as configs/raft.py makes it.

    Raises:
      UserError: the model is not RAFT-small, or the crop does not fit it.
    """
    values = config.model.to_dict()
    if values["compute_dtype"] == "auto":
        values["compute_dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = RAFTConfig(**values)
    if not model.small:
        raise UserError(
            "RAFT has batch norm, whose statistics are not trained here; train RAFT-small, with "
            "--config.model.small=True."
        )
    crop = tuple(config.data.crop)
    if any(side % STRIDE or side < MIN_SIDE for side in crop):
        raise UserError(
            f"RAFT cannot look at a crop of {'x'.join(map(str, crop))}; choose for data.crop "
            f"multiples of {STRIDE} from {MIN_SIDE}."
        )
    return OpticalFlow(RAFT(model), crop, config.loss.gamma, config.loss.iterations)


@dataclasses.dataclass(frozen=True, eq=False)
class OpticalFlow:
    """A `Task`: pairs of frames in, the flow from the first to the second out.

    The loss is a mean over the vectors of all pairs of a batch. `epe` is in pixels, `over_1px` and
    `over_3px` are shares of vectors, `fl_all` is a share in percent; those of training are of the
    last step of refinement.
    """

    model: nn.Module
    crop: tuple[int, int]  # rows and columns of training pairs
    gamma: float  # weight of a step's error over that of the next
    iterations: int  # steps of refinement in training

    batch_fields: ClassVar = frozenset(FlowBatch.__required_keys__)
    scores: ClassVar = ("epe", "over_1px", "over_3px", "fl_all", "dis_epe")
    best_score: ClassVar = "epe"
    higher_is_better: ClassVar = False
    curves: ClassVar = {
        "loss": ("train/loss",),
        "end-point error in pixels": ("train/epe", "validation/epe", "validation/dis_epe"),
        "share of vectors": ("validation/over_1px", "validation/over_3px"),
        "learning rate": ("train/learning_rate",),
    }

    def init_params(self, seed: int) -> Any:
        """As `Task`; parameters do not depend on the size of the frames."""
        frame = jnp.zeros((1, MIN_SIDE, MIN_SIDE, 3))
        return jax.jit(self.model.init)(jax.random.key(seed), frame, frame)["params"]

    def load_params(self, path: str) -> tuple[Any, dict[str, Any]]:
        """As `Task`; released `.pth` files too."""
        variables, info = load_weights(path, "raft")
        return variables["params"], {"weights": info.name, **info.card}

    def loss_unit(self, part: Any) -> Int[Array, ""]:
        """As `Task`: vectors that are learned from."""
        return learned_vectors(part["flow"], part["valid"]).sum()

    def loss(
        self, params: Any, part: Any, unit: Float[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Moments]]]:
        """As `Task`."""
        flows = self._apply(params, part["first"], part["second"], self.iterations)
        loss = sequence_loss(flows, part["flow"], part["valid"], self.gamma, unit)
        used = learned_vectors(part["flow"], part["valid"])
        sums = end_point_errors(flows[-1], part["flow"], used)
        names = ("epe", "over_1px", "over_3px")
        metrics = {name: sums[name] / jnp.maximum(unit, 1) for name in names}
        return loss, ({"loss": loss, **metrics}, {})

    def evaluate(self, params: Any, batch: Any) -> tuple[Metrics, Float[Array, "b h w 2"]]:
        """As `Task`, with the flow; refined in as many steps as `oclr flow` refines it.

        Frames are padded to what RAFT takes, as there. `dis_epe` is the error of the flow in the
        data that DIS estimated between the same frames; without it its count is 0.
        """
        height, width = batch["valid"].shape[1:]
        pad = [(0, max(-side % STRIDE, MIN_SIDE - side)) for side in (height, width)]
        frames = (
            jnp.pad(batch[name], ((0, 0), *pad, (0, 0)), mode="edge")
            for name in ("first", "second")
        )
        flow = self._apply(params, *frames, ITERATIONS)[-1][:, :height, :width]
        sums = _with_counts(end_point_errors(flow, batch["flow"], batch["valid"]))
        if "estimated" in batch:
            dis = end_point_errors(batch["estimated"], batch["flow"], batch["valid"])
            sums |= _with_counts({"dis_epe": dis["epe"], "count": dis["count"]})
        else:
            sums |= {"dis_epe_sum": jnp.float32(0), "dis_epe_count": jnp.float32(0)}
        return sums, flow

    def picture(self, batch: Any, shown: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`."""
        return pair_strip(batch, shown)

    def step_flops(self, examples: int) -> int:
        """As `Task`."""
        params = jax.eval_shape(lambda: self.init_params(0))
        frame = jax.ShapeDtypeStruct((1, *self.crop, 3), jnp.uint8)
        forward = partial(self._apply, iterations=self.iterations)
        return 3 * examples * matrix_flops(forward, params, frame, frame)

    def export(
        self,
        path: str | os.PathLike,
        params: Any,
        name: str,
        card: dict[str, Any],
        data: Any,
        dtype: str,
    ) -> None:
        """As `Task`: a file for `--flow raft-small:FILE`."""
        model = dataclasses.replace(self.model.config, compute_dtype="float32")
        card = {**card, "data_version": data.version}
        info = WeightsInfo(model=model, name=name, card=card)
        save_weights(path, {"params": params}, info, dtype=dtype)

    def _apply(
        self,
        params: Any,
        first: UInt8[Array, "b h w 3"],
        second: UInt8[Array, "b h w 3"],
        iterations: int,
    ) -> Float[Array, "steps b h w 2"]:
        """Flow after every step of refinement."""
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

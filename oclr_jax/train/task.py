"""The interface of the training loop to what is trained. The tasks are in `oclr_jax.train.tasks`.

The loop, the step and the checkpoints are the same for every task.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, UInt8
from ml_collections import ConfigDict

from oclr_jax.train.data import TrainingData

Metrics = dict[str, Float[Array, ""]]
# Mean and variance over each channel of some quantity in a part of a batch.
Moments = tuple[Float[Array, "c"], Float[Array, "c"]]


class Variables(NamedTuple):
    """The arrays with which a model is applied: three pytrees.

    params: trained.
    model_state: updated by the forward pass in training, such as batch statistics; {} without any.
    frozen: constant, such as a pretrained backbone; {} without any. The compiled step takes it as
      an argument. It is neither in the optimizer's state nor in checkpoints.
    """

    params: Any
    model_state: Any = {}
    frozen: Any = {}


class LossAux(NamedTuple):
    """What a loss returns beside its value.

    metrics: scalars, `loss` among them, logged as their means over the parts of a batch.
    moments: quantities of which the standard deviation over the whole batch is logged.
    model_state: after the forward pass; {} for a task without any.
    """

    metrics: Metrics
    moments: dict[str, Moments] = {}
    model_state: Any = {}


@runtime_checkable
class Task(Protocol):
    """A model, its data, its loss and its scores.

    Batches are dicts of arrays with a leading axis over examples. `loss`, `loss_normalizer` and
    `evaluate` are pure functions, not compiled here.

    batch_fields: names of the arrays of a training batch.
    scores: names of what `evaluate` sums up.
    best_score, higher_is_better: which score selects the best checkpoint, and its direction.
    curves: panels of the training curves: title -> curves as "kind/name" of rows in the journal.
    """

    batch_fields: frozenset[str]
    scores: tuple[str, ...]
    best_score: str
    higher_is_better: bool
    curves: Mapping[str, tuple[str, ...]]

    def open_data(self, config: ConfigDict) -> TrainingData:
        """Opens the datasets that a configuration names. Raises UserError where it cannot."""

    def init_variables(self, seed: int) -> Variables:
        """Random parameters, the same for the same seed, with model state and frozen parameters."""

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        """Reads a weights file to start from, with its provenance as plain JSON values."""

    def loss_normalizer(self, part: Any) -> Array:
        """The amount of supervision in a part of a batch, a scalar: pixels, vectors, examples.

        Terms of the loss that are a mean over it are divided by its mean over all parts of the
        batch, so that the loss does not depend on how a batch is split.
        """

    def loss(
        self, variables: Variables, part: Any, normalizer: Float[Array, ""], axis_name: str | None
    ) -> tuple[Float[Array, ""], LossAux]:
        """The loss of a part of a batch; its mean over the parts is that of the whole batch.

        Args:
          part: examples; `part["example_key"]` has a random key for each.
          normalizer: mean of `loss_normalizer` over the parts of the batch.
          axis_name: the mapped axis of devices, for batch statistics; None where there is none.
        """

    def evaluate(self, variables: Variables, batch: Any) -> tuple[Metrics, Any]:
        """Returns `x_sum` and `x_count` for every score x, and a prediction for `draw`.

        Sums and counts are added up over the batches. A score is sum over count; a count may be 0.
        """

    def draw(self, batch: Any, prediction: Any) -> UInt8[np.ndarray, "H W 3"]:
        """A picture of the first example of a batch and its prediction."""

    def step_flops(self, examples: int) -> int:
        """Floating-point operations of a training step (see `utilisation.matrix_flops`).

        Three times those of the forward pass, as usual. Recomputation does not count.
        """

    def export(
        self,
        path: str | os.PathLike,
        variables: Variables,
        name: str,
        card: dict[str, Any],
        metadata: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """Writes a self-describing weights file, without training's precision and memory switches.

        Args:
          card: provenance, as plain JSON values.
          metadata: of the training dataset (`TrainingData.metadata`).
          dtype: of the arrays in the file.
        """

"""What one task of training has that another has not; the loop and the step are the same for all.

The tasks are in `oclr_jax.train.tasks`.
"""

import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

Metrics = dict[str, Float[Array, ""]]
# Of some quantity, in a part of a batch: mean and variance of each channel.
Moments = tuple[Float[Array, "c"], Float[Array, "c"]]


@runtime_checkable
class Task(Protocol):
    """A model, what it learns from, and how it is judged.

    `loss`, `loss_unit` and `evaluate` are pure and not compiled. Batches are dicts of arrays with a
    leading axis over examples, one of them `flow`.

    model: gives the output; its `config` is a dataclass.
    batch_fields: the arrays of a training batch.
    scores: what `evaluate` sums up.
    best_score, higher_is_better: which of them says which parameters are the best.
    curves: panels of the run's figure: title, and in each the curves by "kind/name" of their rows.
    """

    model: nn.Module
    batch_fields: frozenset[str]
    scores: tuple[str, ...]
    best_score: str
    higher_is_better: bool
    curves: Mapping[str, tuple[str, ...]]

    def init_params(self, seed: int) -> Any:
        """Random parameters, the same for the same seed."""

    def load_params(self, path: str) -> tuple[Any, dict[str, Any]]:
        """Parameters in a file of weights, and where they come from: plain JSON values."""

    def loss_unit(self, part: Any) -> Array:
        """How much there is in a part of a batch of what a term of the loss is a mean over.

        A scalar, whose mean over the parts is given to the `loss` of each.
        """

    def loss(
        self, params: Any, part: Any, unit: Float[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, dict[str, Moments]]]:
        """The loss of a part of a batch, such that its mean over the parts is that of the whole.

        Returns with it metrics, `loss` among them, whose means over the parts are logged, and the
        moments of quantities whose deviation over the whole batch is. `part["example_key"]` has a
        random key for each example.
        """

    def evaluate(self, params: Any, batch: Any) -> tuple[Metrics, Any]:
        """`x_sum` and `x_count` of every score x, to add up over batches, and what `picture` shows.

        The score is sum over count; a count may be 0.
        """

    def picture(self, batch: Any, shown: Any) -> UInt8[np.ndarray, "H W 3"]:
        """A batch's first example with what was predicted for it."""

    def step_flops(self, examples: int) -> int:
        """Operations of a training step of so many examples (`utilisation.matrix_flops`).

        Three times those of the forward pass, the usual count: what is computed again to save
        memory is not work.
        """

    def export(
        self,
        path: str | os.PathLike,
        params: Any,
        name: str,
        card: dict[str, Any],
        data: Any,
        dtype: str,
    ) -> None:
        """Writes self-describing weights; precision and memory switches of training stay here.

        Args:
          data: the `loop.Data` that was trained on.
          dtype: on disk.
        """

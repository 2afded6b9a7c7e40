"""A toy task of a few parameters, which compiles in no time and uses every seam of the loop.

A linear model on features of a frozen layer with batch norm: frozen parameters, model state, and
two parameter groups, `norm` and `head`.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from configs.common import base_config
from oclr_jax.train.data import TrainingData
from oclr_jax.train.loop import train
from oclr_jax.train.state import TrainState
from oclr_jax.train.task import LossAux, Variables

FEATURES, HIDDEN = 3, 4


class Model(nn.Module):
    """Batch norm and a linear head on features."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool = False):
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.5, axis_name=self.axis_name, name="norm"
        )
        return nn.Dense(1, name="head")(norm(x))[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Toy:
    """A `Task`: regression from `x` to `y`."""

    width: int = HIDDEN  # of the frozen layer

    batch_fields: ClassVar = frozenset({"x", "y"})
    scores: ClassVar = ("error",)
    best_score: ClassVar = "error"
    higher_is_better: ClassVar = False
    curves: ClassVar = {"loss": ("train/loss", "validation/error")}

    def open_data(self, config: ConfigDict) -> TrainingData:
        return toy_data(config.batch_size)

    def init_variables(self, seed: int) -> Variables:
        frozen = {"layer": np.random.default_rng(5).normal(size=(FEATURES, self.width))}
        frozen = jax.tree.map(np.float32, frozen)
        variables = Model().init(jax.random.key(seed), jnp.zeros((2, self.width)))
        state = {"batch_stats": variables["batch_stats"]}
        return Variables(variables["params"], state, frozen)

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        with np.load(path) as file:
            params = {}
            for name, value in file.items():
                group, leaf = name.split("/")
                params.setdefault(group, {})[leaf] = value
        return Variables(params), {"weights": "toy"}

    def loss_normalizer(self, part: Any) -> Any:
        return jnp.float32(part["y"].shape[0])

    def loss(self, variables: Variables, part: Any, normalizer: Any, axis_name: str | None) -> Any:
        features = jnp.tanh(part["x"] @ variables.frozen["layer"])
        given = {"params": variables.params, **variables.model_state}
        predicted, state = Model(axis_name).apply(
            given, features, train=True, mutable="batch_stats"
        )
        noise = jax.vmap(lambda key: 0.01 * jax.random.normal(key))(part["example_key"])
        loss = jnp.square(predicted + noise - part["y"]).sum() / normalizer
        return loss, LossAux({"loss": loss}, model_state=state)

    def evaluate(self, variables: Variables, batch: Any) -> Any:
        features = jnp.tanh(batch["x"] @ variables.frozen["layer"])
        predicted = Model().apply({"params": variables.params, **variables.model_state}, features)
        error = jnp.square(predicted - batch["y"]).sum()
        return {"error_sum": error, "error_count": jnp.float32(len(batch["y"]))}, predicted

    def draw(self, batch: Any, prediction: Any) -> np.ndarray:
        return np.zeros((2, 2, 3), np.uint8)

    def step_flops(self, examples: int) -> int:
        return 24 * examples

    def export(
        self,
        path: os.PathLike,
        variables: Variables,
        name: str,
        card: dict,
        metadata: Any,
        dtype: str,
    ) -> None:
        values = jax.tree.map(np.asarray, variables.params)
        flat = {f"{group}/{leaf}": x for group, ls in values.items() for leaf, x in ls.items()}
        with open(path, "wb") as file:
            np.savez(file, **flat)
        Path(f"{path}.json").write_text(json.dumps(card))


def toy_batch(index: int, examples: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([3, index])
    x = rng.normal(size=(examples, FEATURES)).astype(np.float32)
    return {"x": x, "y": np.sin(x).sum(axis=1)}


def toy_data(batch_size: int) -> TrainingData:
    """Every batch is a function of the step."""

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        for step in range(start, 10**9):
            yield toy_batch(step, batch_size)

    return TrainingData(
        train_batches=batches,
        validation_batches=lambda: (toy_batch(10**6 + i, 1) for i in range(3)),
        metadata={"data_version": "toy"},
        describe_batch=lambda step: f"toys {step}",
    )


def toy_config() -> ConfigDict:
    """A few steps of everything that the loop does."""
    config = base_config()
    config.name, config.task = "toy", "toy"
    config.data.validation = "toy"
    config.batch_size = 4
    config.steps = 6
    config.optimizer.learning_rate = 1e-2
    config.ema_decay = 0.9
    config.log_every = 2
    config.evaluate_every = 3
    config.checkpoint_every = 2
    config.keep_checkpoints = 2
    config.strips = (0, 1, 9)
    return config


def train_toy(
    config: ConfigDict, workdir: os.PathLike, data: TrainingData | None = None, **options: Any
) -> TrainState:
    """Trains the toy task in a workdir."""
    return train(config, workdir, Toy(), data or toy_data(config.batch_size), **options)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(ours: Any, theirs: Any) -> None:
    """Two pytrees are bit-identical."""
    for one, other in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)

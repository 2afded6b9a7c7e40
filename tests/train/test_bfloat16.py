"""Training in bfloat16: losses and gradients are float32 all the same, and it ends as well."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.fit import fit
from oclr_jax.train.schedule import OptimizerConfig
from oclr_jax.train.tasks.segmentation import Segmentation
from tests.train.squares import squares

TINY = OCLRConfig(
    frames=4, height=32, width=48, channels=(4, 8, 16), heads=2, feedforward=32, encoder_layers=1,
    decoder_layers=1, compute_dtype="bfloat16",
)  # fmt: skip
WEIGHTS = LossWeights(query=1.0)


def test_outputs_loss_and_gradients_are_float32():
    task = Segmentation(OCLR(TINY), WEIGHTS)
    variables = jax.eval_shape(lambda: task.init_variables(0))
    batch = {name: jnp.asarray(x) for name, x in squares(0, 1, 4, 32, 48).items()}
    part = batch | {"example_key": jax.random.split(jax.random.key(0), 1)}

    def loss(params):
        return task.loss(variables._replace(params=params), part, jnp.float32(1.0), None)

    gradients, aux = jax.eval_shape(jax.grad(loss, has_aux=True), variables.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(aux)} == {jnp.dtype("float32")}
    output = jax.eval_shape(task.model.apply, {"params": variables.params}, batch["flow"])
    assert output.amodal_logits.dtype == output.order.dtype == jnp.float32


@pytest.mark.slow
def test_training_ends_with_the_loss_of_float32():
    steps = 300
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=20, decay="cosine")
    batches = [squares(step, 2, 4, 32, 48) for step in range(steps)]
    last = {}
    for dtype in ("float32", "bfloat16"):
        config = dataclasses.replace(TINY, compute_dtype=dtype, dropout=0.0)
        task = Segmentation(OCLR(config), WEIGHTS)
        variables = task.init_variables(0)
        _, history = fit(task, variables, batches, steps, optimizer=optimizer)
        losses = history["loss"]
        # A single step's batch is worth more than the difference.
        last[dtype] = losses[-50:].mean()
        assert last[dtype] < 0.5 * losses[:10].mean()
    # From initial weights that differ by 1e-6, float32 itself ends within 0.1%.
    assert last["bfloat16"] == pytest.approx(last["float32"], rel=0.02)

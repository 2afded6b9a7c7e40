"""The learning rate at the steps where it turns."""

import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.train.schedule import OptimizerConfig, learning_rate, make_optimizer


@pytest.mark.parametrize(
    ("step", "share"),
    [
        (0, 1 / 40_000),
        (19_999, 0.5),
        (39_999, 1),
        (79_999, 1),
        (80_000, 0.5),
        (160_000, 0.25),
        (560_000, 2**-7),
        (720_000, 2**-9),
        (2_000_000, 2**-9),
    ],
)
def test_the_papers_schedule(step, share):
    rate = learning_rate(OptimizerConfig(), 600_000)
    np.testing.assert_allclose(rate(step), 5e-5 * share, rtol=1e-5)


def test_the_cosine_ends_at_the_final_fraction():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay="cosine", final_fraction=0.1)
    rate = learning_rate(config, 110)
    np.testing.assert_allclose([rate(s) for s in (9, 10, 60, 110, 500)], [1, 1, 0.55, 0.1, 0.1])


def test_gradients_are_clipped_by_value():
    # Adam does not feel a common factor, so the clip shows in the ratio of two steps' gradients.
    optimizer = make_optimizer(OptimizerConfig(clip_value=5.0), 100)
    params = {"query": jnp.zeros(2)}
    state = optimizer.init(params)
    _, state = optimizer.update({"query": jnp.array([1.0, 50.0])}, state, params)
    first_moment = state[1].mu["query"]
    np.testing.assert_allclose(first_moment, [0.1, 0.5], rtol=1e-6)


def test_the_unet_has_a_rate_of_its_own():
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, unet_factor=3.0)
    optimizer = make_optimizer(config, 100)
    names = ("unet_encoder", "unet_decoder", "encoder1", "query")
    params = {name: jnp.zeros(1) for name in names}
    grads = {name: jnp.ones(1) for name in names}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # Adam's first step is the rate itself.
    expected = {"unet_encoder": -3e-3, "unet_decoder": -3e-3, "encoder1": -1e-3, "query": -1e-3}
    for name in names:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5)

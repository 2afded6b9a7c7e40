"""The learning rate at the steps where it turns."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from oclr_jax.train.schedule import OptimizerConfig, learning_rate_schedule, make_optimizer


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
    rate = learning_rate_schedule(OptimizerConfig(), 600_000)
    np.testing.assert_allclose(rate(step), 5e-5 * share, rtol=1e-5)


def test_the_cosine_ends_at_the_final_fraction():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay="cosine", final_fraction=0.1)
    rate = learning_rate_schedule(config, 110)
    np.testing.assert_allclose([rate(s) for s in (9, 10, 60, 110, 500)], [1, 1, 0.55, 0.1, 0.1])


def test_gradients_are_clipped_by_value():
    # Adam is invariant to a common factor, so the clip shows in the ratio of two steps' gradients.
    optimizer = make_optimizer(OptimizerConfig(clip_value=5.0), 100)
    params = {"query": jnp.zeros(2)}
    state = optimizer.init(params)
    _, state = optimizer.update({"query": jnp.array([1.0, 50.0])}, state, params)
    first_moment = state[1].inner_states["factor_1"].inner_state[0].mu["query"]
    np.testing.assert_allclose(first_moment, [0.1, 0.5], rtol=1e-6)


def test_a_group_has_its_own_learning_rate():
    config = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, groups=(("unet", 3.0),))
    optimizer = make_optimizer(config, 100)
    names = ("unet_encoder", "unet_decoder", "encoder1", "query")
    params = {name: jnp.zeros(1) for name in names}
    grads = {name: jnp.ones(1) for name in names}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    # Adam's first step is the learning rate itself.
    expected = {"unet_encoder": -3e-3, "unet_decoder": -3e-3, "encoder1": -1e-3, "query": -1e-3}
    for name in names:
        np.testing.assert_allclose(updates[name], expected[name], rtol=1e-5)


def test_warm_up_and_linear_decay_are_one_cycle():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay="linear", final_fraction=0.0)
    rate = learning_rate_schedule(config, 110)
    np.testing.assert_allclose([rate(s) for s in (0, 9, 10, 60, 110)], [0.1, 1, 1, 0.5, 0])


def test_weight_decay_is_that_of_adamw_and_the_norm_is_clipped_first():
    values = {"learning_rate": 0.1, "warmup_steps": 0, "decay": "linear", "final_fraction": 1.0}
    ours = make_optimizer(OptimizerConfig(clip_norm=1.0, weight_decay=0.01, **values), 100)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.01))
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
    states = [ours.init(params), theirs.init(params)]
    for grads in ({"a": jnp.array([30.0, 40.0]), "b": jnp.array([0.0])}, params):
        given, states[0] = ours.update(grads, states[0], params)
        expected, states[1] = theirs.update(grads, states[1], params)
        for name in params:
            np.testing.assert_allclose(given[name], expected[name], rtol=1e-6)


def test_what_is_off_adds_nothing_to_the_state():
    params = {"query": jnp.zeros(2)}
    plain = make_optimizer(OptimizerConfig(), 100).init(params)
    assert len(plain) == 3
    assert len(make_optimizer(OptimizerConfig(clip_norm=1.0), 100).init(params)) == 4

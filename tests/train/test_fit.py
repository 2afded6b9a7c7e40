"""`fit` in memory, and the seams that every task can use: frozen trees, groups, model state."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.train.fit import compile_step, fit, one_device
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import init_state
from oclr_jax.train.step import make_train_step
from tests.train.toy import Toy, assert_same, leaves, toy_batch, toy_config, toy_data, train_toy

PLAIN = OptimizerConfig(learning_rate=1e-2, warmup_steps=0)


def batches(count: int, start: int = 0):
    return (toy_batch(index, 4) for index in range(start, start + count))


def test_fit_takes_the_steps_of_the_loop(tmp_path):
    config = toy_config()
    state = train_toy(config, tmp_path)
    task = Toy()
    fitted, metrics = fit(
        task,
        task.init_variables(config.seed),
        toy_data(4).train_batches(0),
        config.steps,
        optimizer=OptimizerConfig(**config.optimizer),
        seed=config.seed,
        ema_decay=config.ema_decay,
    )
    assert_same(fitted.params, state.ema_params)
    assert_same(fitted.model_state, state.model_state)
    assert metrics["loss"].shape == metrics["grad_norm"].shape == (6,)


def test_fit_compiles_once_and_leaves_what_it_is_given():
    traced = []

    class Counting(Toy):
        def loss(self, *arguments):
            traced.append(1)
            return super().loss(*arguments)

    task = Counting()
    start = task.init_variables(0)
    before = jax.tree.map(np.array, start)
    first, _ = fit(task, start, batches(5), 5, optimizer=PLAIN)
    count = len(traced)
    second, _ = fit(task, start, batches(5, start=50), 5, optimizer=PLAIN)
    again, _ = fit(task, start, batches(5), 5, optimizer=PLAIN)
    assert len(traced) == count, "compiled again for the same task, settings and shapes"
    assert_same(start, before)
    assert_same(again, first)
    assert not np.allclose(second.params["head"]["kernel"], first.params["head"]["kernel"])


def test_fit_learns_and_says_where_data_ends():
    task = Toy()
    start = task.init_variables(0)
    _, metrics = fit(task, start, itertools.cycle([toy_batch(0, 8)]), 100, optimizer=PLAIN)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]
    with pytest.raises(UserError, match="data ended before the training"):
        fit(task, start, batches(2), 3, optimizer=PLAIN)
    same, metrics = fit(task, start, batches(0), 0, optimizer=PLAIN)
    assert metrics == {}
    assert_same(same, start)


def test_frozen_parameters_are_arguments_of_the_program_and_not_constants():
    task = Toy(width=3000)
    variables = task.init_variables(0)
    optimizer = make_optimizer(PLAIN, 10)
    state = init_state(variables, optimizer, ema=False)
    step = compile_step(task, PLAIN, 10, one_device(), seed=0)
    lowered = step.lower(state, variables.frozen, jax.tree.map(jnp.asarray, toy_batch(0, 4)))
    # As a constant, 9,000 values would be spelled out, or embedded as 36 kB of hexadecimal digits.
    assert "dense_resource" not in lowered.as_text()
    assert max(map(len, lowered.as_text().splitlines())) < 20_000
    assert "layer" not in str(jax.tree_util.tree_structure(state.opt_state))
    # They matter: other values give another loss.
    other = jax.tree.map(lambda x: 2 * x, variables.frozen)
    batch = toy_batch(0, 4)
    losses = [
        float(step(jax.tree.map(jnp.copy, state), frozen, batch)[1]["loss"])
        for frozen in (variables.frozen, other)
    ]
    assert losses[0] != losses[1]


def test_groups_have_their_own_learning_rate_or_none():
    task = Toy()
    start = task.init_variables(0)
    frozen = dataclasses.replace(PLAIN, groups=(("norm/scale", 0.0), ("head", 3.0)), clip_norm=0.1)
    plain, metrics = fit(task, start, batches(1), 1, optimizer=PLAIN)
    ours, ours_metrics = fit(task, start, batches(1), 1, optimizer=frozen)
    np.testing.assert_array_equal(ours.params["norm"]["scale"], start.params["norm"]["scale"])
    assert (plain.params["norm"]["scale"] != start.params["norm"]["scale"]).all()
    # The first step of Adam is the learning rate itself, whatever the gradient.
    for name, factor in (("norm/bias", 1), ("head/kernel", 3), ("head/bias", 3)):
        group, leaf = name.split("/")
        moved = np.abs(ours.params[group][leaf] - start.params[group][leaf])
        np.testing.assert_allclose(moved, factor * PLAIN.learning_rate, rtol=1e-3, err_msg=name)
    # Frozen parameters have no part in the gradient's norm, and no state of the optimizer.
    assert ours_metrics["grad_norm"][0] < metrics["grad_norm"][0]
    state = make_optimizer(frozen, 1).init(start.params)
    sizes = [leaf.size for leaf in leaves(state) if leaf.ndim]
    assert sum(sizes) == 2 * (4 + 4 + 1)  # two moments of norm/bias, head/kernel and head/bias


def test_accumulated_parts_average_the_model_state():
    task = Toy()
    variables = task.init_variables(0)
    optimizer = make_optimizer(PLAIN, 10)
    state = init_state(variables, optimizer, ema=False)
    batch = toy_batch(0, 4)
    step = jax.jit(make_train_step(task, optimizer, seed=0, accumulate=2))
    after, _ = step(state, variables.frozen, batch)
    features = np.tanh(batch["x"] @ variables.frozen["layer"])
    found = after.model_state["batch_stats"]["norm"]
    np.testing.assert_allclose(found["mean"], 0.5 * features.mean(axis=0), rtol=1e-5)
    parts = np.stack([features[i::2].var(axis=0) for i in range(2)]).mean(axis=0)
    np.testing.assert_allclose(found["var"], 0.5 + 0.5 * parts, rtol=1e-5)

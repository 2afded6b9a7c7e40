"""The pure step: what it computes, and that it is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from oclr_jax.models.oclr import OCLR, OCLRConfig, OCLROutput
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.evaluation import mean_scores
from oclr_jax.train.schedule import OptimizerConfig, make_optimizer
from oclr_jax.train.state import init_state
from oclr_jax.train.step import make_train_step
from oclr_jax.train.task import Variables
from oclr_jax.train.tasks.segmentation import Segmentation, init_params
from tests.train.squares import squares

CONFIG = OCLRConfig(
    channels=(4, 8), heads=2, feedforward=8, encoder_layers=1, decoder_layers=1, dropout=0.5
)


@pytest.fixture(scope="module")
def parts():
    model = OCLR(CONFIG)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, warmup_steps=0), 100)
    step = make_train_step(Segmentation(model, LossWeights()), optimizer, seed=0, ema_decay=0.5)
    return model, optimizer, jax.jit(step)


def fresh(parts, seed=0):
    return init_state(Variables(init_params(parts[0], seed)), parts[1], ema=True)


def batch(index=0):
    return squares(index, 2, 3, 16, 16)


def test_every_parameter_moves_and_one_program_serves_all_steps(parts):
    state = before = fresh(parts)
    for index in range(3):
        state, metrics = parts[2](state, {}, batch(index))
    assert int(state.step) == 3
    terms = {"bce", "boundary", "order"}
    assert set(metrics) == terms | {"loss", "grad_norm", "token_spread", "live_maps"}
    still = jax.tree.map(np.array_equal, before.params, state.params)
    # A ranking feels differences alone, so the last bias of the order head has no gradient.
    assert still["order2"].pop("bias")
    assert not any(jax.tree.leaves(still))
    assert parts[2]._cache_size() == 1


def test_a_step_that_is_not_finite_changes_nothing_but_the_count(parts):
    state, _ = parts[2](fresh(parts), {}, batch())
    broken = batch(1)
    broken["flow"][0, 0, 0, 0, 0] = np.inf
    after, metrics = parts[2](state, {}, broken)
    assert not np.isfinite(metrics["loss"])
    assert int(after.step) == int(state.step) + 1
    for ours, theirs in zip(
        jax.tree.leaves(after.replace(step=0)), jax.tree.leaves(state.replace(step=0)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_transformer_that_says_always_the_same_shows_in_the_metrics(parts):
    state = fresh(parts)
    _, metrics = parts[2](state, {}, batch())
    assert metrics["token_spread"] > 0.3
    assert 0.2 < metrics["live_maps"] < 0.8
    dead = jax.tree.map(jnp.copy, state.params)
    dead["encoder1"]["norm2"]["weight"] *= 0
    dead["map_linear"] = {"kernel": dead["map_linear"]["kernel"] * 0, "bias": -jnp.ones(8)}
    _, metrics = parts[2](state.replace(params=dead), {}, batch())
    assert metrics["token_spread"] < 1e-6
    assert metrics["live_maps"] == 0


class AnyPrediction(nn.Module):
    """Predictions that do not depend on parameters, with the intermediates of OCLR."""

    config: OCLRConfig = CONFIG

    @nn.compact
    def __call__(self, flow, train):
        b, t, h, w, _ = flow.shape
        rng = np.random.default_rng(1)
        for name in ("query_maps", "attention_maps", "encoded"):
            maps = rng.normal(size=(b, t, h // 2, w // 2, 3)).astype(np.float32)
            self.sow("intermediates", name, jnp.asarray(maps))
        logits = rng.normal(size=(b, t, h, w, 3)).astype(np.float32)
        return OCLROutput(jnp.asarray(logits), jnp.tile(jnp.array([[0.3, -1.0, 0.9]]), (b, 1)))


def loss_of(weights, truth):
    """The loss and its terms."""
    task = Segmentation(AnyPrediction(), weights)
    keys = jax.random.split(jax.random.key(0), len(truth["flow"]))
    part = jax.tree.map(jnp.asarray, truth) | {"example_key": keys}
    normalizer = task.loss_normalizer(part).astype(jnp.float32)
    return jax.jit(lambda: task.loss(Variables({}), part, normalizer)[1].metrics)()


def test_the_query_term_is_part_of_the_loss():
    metrics = loss_of(LossWeights(query=1.0), batch())
    plain = metrics["bce"] + 0.2 * metrics["boundary"] + 0.05 * metrics["order"]
    np.testing.assert_allclose(metrics["loss"], plain + metrics["query"], rtol=1e-5)


def test_modal_supervision_is_training_on_modal_masks():
    truth, modal_alone = batch(), batch()
    modal_alone["amodal"] = truth["modal"]
    assert (truth["amodal"] != truth["modal"]).any()
    ours = loss_of(LossWeights(supervision="modal"), truth)
    expected = loss_of(LossWeights(), modal_alone)
    for name in ("loss", "boundary"):
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, err_msg=name)


def test_the_dropout_key_is_a_function_of_the_step(parts):
    state = fresh(parts)
    loss = [
        float(parts[2](s, {}, batch())[1]["loss"])
        for s in (state, state, state.replace(step=1 + state.step))
    ]
    assert loss[0] == loss[1] != loss[2]


def test_the_average_follows_the_parameters(parts):
    state = fresh(parts)
    after, _ = parts[2](state, {}, batch())
    # The first step has decay 1 / 10, below the configured one.
    expected = jax.tree.map(lambda a, p: 0.1 * a + 0.9 * p, state.ema_params, after.params)
    for ours, theirs in zip(
        jax.tree.leaves(after.ema_params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert after.eval_variables({}).params is after.ema_params


def test_parameters_depend_on_the_seed_alone(parts):
    first, again, other = (init_params(parts[0], seed) for seed in (3, 3, 4))
    same = jax.tree.map(np.array_equal, first, again)
    assert all(jax.tree.leaves(same))
    assert (first["query"] != other["query"]).any()


def test_scores_count_frames_and_pairs(parts):
    evaluate = jax.jit(Segmentation(parts[0], LossWeights()).evaluate)
    truth = squares(0, 1, 3, 32, 48)
    sums, masks = evaluate(Variables(init_params(parts[0], 0)), truth)
    assert masks["modal"].shape == truth["modal"].shape
    shown = truth["amodal"].any(axis=(2, 3, 4)).sum()
    assert sums["amodal_j_count"] == shown
    assert sums["order_accuracy_count"] == 1  # of three pairs, the third layer being empty
    scores = mean_scores({name: float(value) for name, value in sums.items()})
    assert 0 <= scores["modal_j"] <= 1
    assert "order_accuracy" not in mean_scores(
        {"order_accuracy_sum": 0.0, "order_accuracy_count": 0.0}
    )


@pytest.mark.parametrize("order_from", ["head", "overlap"])
def test_a_perfect_prediction_scores_one(order_from):
    class Oracle(nn.Module):
        """Says the ground truth, in another order of the layers.

        What does not say the order says the opposite.
        """

        truth: np.ndarray
        config: OCLRConfig

        def __call__(self, flow):
            logits = jnp.asarray(self.truth[..., ::-1], jnp.float32) * 20 - 10
            front_last = jnp.array([-2.0, 0.0, 2.0])
            if self.config.order_from == "head":
                return OCLROutput(logits - front_last, jnp.array([[5.0, 1.0, -2.0]]))
            return OCLROutput(logits + front_last, jnp.array([[-2.0, 1.0, 5.0]]))

    truth = squares(3, 1, 4, 16, 24)
    oracle = Oracle(truth["amodal"], OCLRConfig(order_from=order_from))
    evaluate = jax.jit(Segmentation(oracle, LossWeights()).evaluate)
    scores = mean_scores({n: float(v) for n, v in evaluate(Variables({}), truth)[0].items()})
    assert scores["modal_j"] == scores["amodal_j"] == scores["order_accuracy"] == 1

"""The flow loss and its gradient against float64 numpy; summed errors against means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops.flow_losses import MAX_FLOW, end_point_errors, learned_vectors, sequence_loss
from oclr_jax.ops.flow_metrics import end_point_error, fl_all


@pytest.fixture
def flows():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 3, (2, 5, 4, 2)).astype(np.float32)
    estimates = truth + rng.normal(0, 2, (3, *truth.shape)).astype(np.float32)
    return estimates, truth, rng.random((2, 5, 4)) < 0.7


def test_later_iterations_have_larger_weights(flows):
    estimates, truth, valid = flows
    per_step = [np.abs(each.astype(np.float64) - truth)[valid].mean() for each in estimates]
    expected = 0.64 * per_step[0] + 0.8 * per_step[1] + per_step[2]
    assert float(sequence_loss(*map(jnp.asarray, flows))) == pytest.approx(expected, rel=1e-5)


def test_invalid_and_very_long_vectors_do_not_count(flows):
    estimates, truth, valid = flows
    truth[0, 0, 0] = MAX_FLOW
    valid[0, 0, 0] = True
    truth[1, 1, 1], valid[1, 1, 1] = np.nan, False
    gradient = np.asarray(jax.grad(sequence_loss)(*map(jnp.asarray, flows)))
    used = valid.copy()
    used[0, 0, 0] = False
    assert (gradient[:, ~used] == 0).all() and (gradient[:, used] != 0).all()
    nothing = jnp.zeros(valid.shape, bool)
    assert float(sequence_loss(jnp.asarray(estimates), jnp.asarray(truth), nothing)) == 0


def test_errors_add_up(flows):
    estimates, truth, valid = flows
    sums = end_point_errors(*map(jnp.asarray, (estimates[0], truth, valid)))
    whole = end_point_error(estimates[0], truth, valid)
    assert float(sums["epe"] / sums["count"]) == pytest.approx(whole, rel=1e-5)
    distance = np.linalg.norm(estimates[0] - truth, axis=-1)[valid]
    assert int(sums["over_1px"]) == (distance > 1).sum()
    assert int(sums["over_3px"]) == (distance > 3).sum()
    wrong = fl_all(estimates[0], truth, valid)
    assert float(sums["fl_all"] / sums["count"]) == pytest.approx(wrong, rel=1e-5)


def test_mean_loss_of_parts_is_the_loss_of_the_batch(flows):
    estimates, truth, valid = map(jnp.asarray, flows)
    vectors = learned_vectors(truth, valid).sum() / 2
    parts = [
        sequence_loss(estimates[:, i : i + 1], truth[i : i + 1], valid[i : i + 1], 0.8, vectors)
        for i in range(2)
    ]
    whole = sequence_loss(estimates, truth, valid)
    assert float(sum(parts) / 2) == pytest.approx(float(whole), rel=1e-5)

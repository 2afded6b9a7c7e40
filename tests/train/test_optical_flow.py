"""The task of optical flow: its loss and scores, and the one loop learning from pairs of frames."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from configs.raft import get_config
from oclr_jax.errors import UserError
from oclr_jax.flow.raft import ITERATIONS, open_raft
from oclr_jax.models.raft import RAFT, RAFTConfig
from oclr_jax.ops.flow_metrics import end_point_error, fl_all
from oclr_jax.train.evaluation import mean_scores
from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.state import init_state
from oclr_jax.train.step import make_train_step
from oclr_jax.train.task import Variables
from oclr_jax.train.tasks import open_task
from oclr_jax.train.tasks.optical_flow import OpticalFlow
from oclr_jax.weights.file import load_weights
from tests.train.drifts import drifts, drifts_data
from tests.train.toy import leaves


@pytest.fixture
def config():
    config = get_config("tiny")
    config.loss.iterations = 2
    config.ema_decay = 0.9
    config.steps = 4
    config.log_every = 2
    config.evaluate_every = 2
    config.checkpoint_every = 2
    config.strips = (0, 1)
    return config


@pytest.fixture(scope="module")
def task():
    config = get_config("tiny")
    config.loss.iterations = 2
    return open_task(config)


@pytest.fixture(scope="module")
def variables(task):
    return task.init_variables(0)


class Convolution(nn.Module):
    """Stands for RAFT: every refinement adds the same convolution of the frames."""

    @nn.compact
    def __call__(self, first, second, iterations):
        change = nn.Conv(2, (3, 3))(jnp.concatenate([first, second], axis=-1))
        return SimpleNamespace(flow=jnp.stack([n * change for n in range(1, iterations + 1)]))


@pytest.fixture(scope="module")
def toy():
    """The task with a model that compiles in no time, and its variables."""
    model, frame = Convolution(), jnp.zeros((1, 64, 64, 3))
    params = model.init(jax.random.key(0), frame, frame, 1)["params"]
    return OpticalFlow(model, crop=(64, 64), gamma=0.8, iterations=2), Variables(params)


def train_flow(config, workdir, data, **options):
    return train(config, workdir, open_task(config), data, **options)


@pytest.mark.slow
def test_the_gradient_reaches_every_parameter(task, variables):
    def loss(params):
        batch = jax.tree.map(jnp.asarray, drifts(0, 2, 64, 64))
        normalizer = task.loss_normalizer(batch).astype(jnp.float32)
        return task.loss(Variables(params), batch, normalizer)[0]

    norms = jax.tree.map(jnp.linalg.norm, jax.jit(jax.grad(loss))(variables.params))
    flat, _ = jax.tree_util.tree_flatten_with_path(norms)
    # Instance norm takes out what a bias before it adds.
    lost = [jax.tree_util.keystr(path) for path, norm in flat if norm == 0 or not np.isfinite(norm)]
    assert not lost, lost


def test_the_losses_of_parts_average_to_that_of_the_whole(toy):
    task, variables = toy
    whole = drifts(3, 2, 64, 64)
    whole["valid"][0, 10:] = False  # so the parts know very different numbers of vectors
    whole["flow"][1, :9, :, 0] = 1e4
    whole = jax.tree.map(jnp.asarray, whole)
    units = [task.loss_normalizer({n: x[i : i + 1] for n, x in whole.items()}) for i in range(2)]
    unit = jnp.mean(jnp.array(units, jnp.float32))
    assert units[0] != units[1] and 2 * unit == task.loss_normalizer(whole)
    loss = jax.jit(task.loss)
    parts = [loss(variables, {n: x[i : i + 1] for n, x in whole.items()}, unit) for i in range(2)]
    expected, aux = loss(variables, whole, 2 * unit)
    assert not aux.moments
    np.testing.assert_allclose(np.mean([part[0] for part in parts]), expected, rtol=1e-5)
    for name, value in aux.metrics.items():
        mean = np.mean([part[1].metrics[name] for part in parts])
        np.testing.assert_allclose(mean, value, rtol=1e-5, err_msg=name)


def test_a_step_in_parts_or_on_two_devices_is_that_of_the_whole_batch(toy):
    task, variables = toy
    batch = drifts(5, 2, 64, 64)
    batch["valid"][0, 10:] = False
    optimizer = optax.sgd(0.3)  # Adam would not feel a gradient that is too large
    state = init_state(variables, optimizer, ema=False)

    def stepped(**ways):
        return make_train_step(task, optimizer, seed=0, **ways)

    # `vmap` with a name maps as `pmap` does, on one device.
    mapped = jax.vmap(stepped(axis_name="data"), in_axes=(None, None, 0), axis_name="data")
    shards = {name: value[:, None] for name, value in batch.items()}
    after, expected = jax.jit(stepped())(state, {}, batch)
    assert set(expected) == {"loss", "epe", "over_1px", "over_3px", "grad_norm"}
    for given in (
        jax.jit(stepped(accumulate=2))(state, {}, batch),
        jax.tree.map(lambda x: x[0], jax.jit(mapped)(state, {}, shards)),
    ):
        for name, value in expected.items():
            np.testing.assert_allclose(given[1][name], value, rtol=1e-4, err_msg=name)
        for ours, theirs in zip(leaves(given[0].params), leaves(after.params), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
def test_scores_against_numpy_in_double_precision(task, variables):
    batch = drifts(7, 1, 68, 100)  # padded inside
    batch["estimated"] = batch["flow"] + np.float32([1.5, 2.0])
    sums, flow = jax.jit(task.evaluate)(variables, batch)
    assert set(sums) == {f"{score}_{part}" for score in task.scores for part in ("sum", "count")}
    assert flow.shape == (1, 68, 100, 2)
    scores = mean_scores({name: float(value) for name, value in sums.items()})
    flow, truth, valid = np.asarray(flow), batch["flow"], batch["valid"]
    distance = np.linalg.norm(flow.astype(np.float64) - truth, axis=-1)[valid]
    expected = {
        "epe": end_point_error(flow, truth, valid),
        "over_1px": (distance > 1).mean(),
        "over_3px": (distance > 3).mean(),
        "fl_all": fl_all(flow, truth, valid),
        "dis_epe": 2.5,
    }
    assert scores == pytest.approx(expected, rel=1e-5)
    del batch["estimated"]
    sums, _ = jax.jit(task.evaluate)(variables, batch)
    assert "dis_epe" not in mean_scores({name: float(value) for name, value in sums.items()})


@pytest.mark.slow
def test_the_error_falls(tmp_path, config):
    config.update({"steps": 60, "log_every": 10, "evaluate_every": 60, "checkpoint_every": 60})
    train_flow(config, tmp_path, drifts_data(config, different=2))
    errors = [row["epe"] for row in read_rows(tmp_path) if row["kind"] == "train"]
    assert errors[-1] < 0.6 * errors[0], errors


@pytest.mark.slow
def test_what_a_training_leaves(tmp_path, config, draws_report):
    state = train_flow(config, tmp_path, drifts_data(config), command="the command")
    rows = [row for row in read_rows(tmp_path) if row["kind"] == "validation"]
    assert [row["step"] for row in rows] == [2, 4]
    assert all(row["dis_epe"] == pytest.approx(0.5**0.5, rel=1e-5) for row in rows)
    strips = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("strips/*/*"))
    assert strips == [f"strips/clip_{clip}/{step:09d}.png" for clip in (0, 1) for step in (2, 4)]
    assert "Step 4 of 4: finished" in (tmp_path / "report.html").read_text(encoding="utf-8")

    variables, info = load_weights(tmp_path / "weights.safetensors", "raft")
    assert info.model == RAFTConfig(small=True) and info.name == "raft-small-tiny"
    card = info.card
    assert (card["steps"], card["seed"], card["command"]) == (4, 0, "the command")
    assert card["data_version"] == "drifts" and card["config"]["loss"]["gamma"] == 0.8
    assert card["validation"]["epe"] == rows[-1]["epe"]
    for ours, theirs in zip(leaves(variables["params"]), leaves(state.ema_params), strict=True):
        np.testing.assert_array_equal(ours, theirs.astype(np.float16).astype(np.float32))
    _, best = load_weights(tmp_path / "weights_best.safetensors", "raft")
    assert best.card["validation"]["epe"] == min(row["epe"] for row in rows)

    # What `oclr flow` reads is what was evaluated.
    raft = open_raft(tmp_path / "weights.safetensors", "raft-small")
    pair = drifts(1, 1, 64, 64)
    frames = [jnp.asarray(pair[name], jnp.float32) / 255 for name in ("first", "second")]
    expected = RAFT(info.model).apply(variables, *frames, ITERATIONS).flow[-1]
    # Programs of other shapes round otherwise, and refinement from random parameters magnifies it.
    tolerance = 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(raft(pair["first"], pair["second"]), expected, atol=tolerance)


@pytest.mark.slow
def test_training_starts_from_flow_weights(tmp_path, config, raft_weights):
    config.init_weights = str(raft_weights)
    config.steps, config.optimizer.learning_rate = 1, 0.0
    state = train_flow(config, tmp_path, drifts_data(config))
    expected = load_weights(raft_weights, "raft")[0]["params"]
    for ours, theirs in zip(leaves(state.params), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert json.loads((tmp_path / "started_from.json").read_text())["weights"] == "small"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("model.small", False, "RAFT has batch norm"),
        ("data.crop", (60, 64), "crop of 60x64; choose .* multiples of 8 from 64"),
        ("data.crop", (64, 56), "multiples of 8 from 64"),
        ("task", "depth", "no task 'depth'; choose from segmentation, optical_flow"),
    ],
)
def test_what_cannot_be_trained_is_told(tmp_path, config, field, value, words):
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        train_flow(config, tmp_path / "workdir", drifts_data(get_config("tiny")))
    assert not (tmp_path / "workdir").exists()

"""The task of Motion Grouping: its loss, its variants, and a training in the loop."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.motion_grouping import VARIANTS, get_config
from oclr_jax.errors import UserError
from oclr_jax.models.baselines.motion_grouping import MotionGroupingConfig
from oclr_jax.models.parameters import flatten
from oclr_jax.ops.motion_grouping_losses import MotionGroupingWeights, mask_loss, true_masks
from oclr_jax.train.data import TrainingData
from oclr_jax.train.loop import train
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.task import Variables
from oclr_jax.train.tasks import open_task
from oclr_jax.train.tasks.motion_grouping import MotionGroupingTask
from oclr_jax.weights.file import load_weights
from tests.train.squares import FLOW_SETTINGS, squares


def tiny_config(variants: str = "tiny", **changes):
    config = get_config(variants)
    config.model.height = config.model.width = 16
    config.model.channels = (4, 4, 8)
    config.model.decoder_channels = 4
    config.model.iterations = 1
    config.strips = (0,)
    config.update({"log_every": 2, "evaluate_every": 4, "checkpoint_every": 4, "steps": 4})
    config.update(changes)
    return config


def squares_data(config, masks: bool = True) -> TrainingData:
    size = (config.data.frames, config.model.height, config.model.width)

    def example(index: int, batch: int) -> dict:
        clip = squares(index, batch, *size)
        return clip if masks else {"flow": clip["flow"]}

    def batches(start):
        for step in range(start, 10**9):
            yield example(step, config.batch_size)

    metadata = {"data_version": "squares", "flow": FLOW_SETTINGS}
    return TrainingData(batches, lambda: (example(10**6 + i, 1) for i in range(2)), metadata)


def test_the_base_is_the_published_program():
    config = get_config()
    task = open_task(config)
    assert task.config == MotionGroupingConfig()
    assert task.weights == MotionGroupingWeights()
    assert (config.batch_size, config.optimizer.learning_rate) == (32, 5e-4)
    assert config.optimizer.halve_every == config.loss.grow_every == 80_000


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_makes_a_task(name):
    task = open_task(get_config(name))
    assert task.supervised == task.higher_is_better == (name == "supervised")
    assert task.config.slots == (4 if name in ("three", "supervised") else 2)
    assert set(task.config.gaps) == ({1, -1} if name in ("synthetic", "supervised", "tiny") else
                                     {1, 2, -1, -2})  # fmt: skip
    assert get_config(f"{name},tiny").name.startswith("motion-grouping")


@cache
def gradient_of(variants: str):
    config = tiny_config(variants)
    task = open_task(config)
    batch = jax.tree.map(jnp.asarray, squares(0, 2, 2, 16, 16))
    variables = task.init_variables(0)

    @jax.jit
    def gradient(params, steps, part):
        given = variables._replace(params=params, model_state={"steps": steps})
        return jax.value_and_grad(
            lambda p: task.loss(given._replace(params=p), part, jnp.ones(())), has_aux=True
        )(params)

    return task, variables, batch, gradient


@pytest.mark.slow
def test_the_loss_of_the_whole_is_the_mean_of_its_parts_and_its_small_terms_grow():
    task, variables, batch, gradient = gradient_of("tiny")
    zero = jnp.float32(0)
    (loss, aux), grads = gradient(variables.params, zero, batch)
    assert all(np.isfinite(leaf).all() for leaf in flatten(grads).values())
    assert float(aux.model_state["steps"]) == 1
    metrics = {name: float(value) for name, value in aux.metrics.items()}
    weights = task.weights
    small = weights.entropy * metrics["entropy"] + weights.consistency * metrics["consistency"]
    wanted = weights.reconstruction * metrics["reconstruction"] + small
    np.testing.assert_allclose([loss, metrics["loss"]], wanted, rtol=1e-5)
    (later, aux), _ = gradient(variables.params, jnp.float32(160_000), batch)
    np.testing.assert_allclose(later - loss, 24 * small, rtol=2e-2)
    np.testing.assert_allclose(aux.metrics["loss"], loss, rtol=1e-5)
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(2)]
    split = [gradient(variables.params, zero, part)[0][0] for part in parts]
    np.testing.assert_allclose(np.mean(split), loss, rtol=1e-4)


@pytest.mark.slow
def test_a_training_leaves_weights_that_segment(tmp_path):
    config = tiny_config("tiny")
    state = train(config, tmp_path, open_task(config), squares_data(config, masks=False))
    assert int(state.step) == float(state.model_state["steps"]) == 4
    params, info = load_weights(tmp_path / "weights.safetensors", "motion_grouping")
    assert (info.name, info.data_version) == ("motion-grouping-tiny", "squares")
    assert info.model.gaps == (1, -1) and info.flow == FLOW_SETTINGS
    scores = [row for row in read_rows(tmp_path) if row["kind"] == "validation"][-1]
    assert {"loss", "reconstruction", "entropy", "consistency"} <= set(scores)
    assert "j" not in scores, "nothing is known about objects"
    assert (tmp_path / "weights_best.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("variants", ["tiny", "supervised,tiny", "three,tiny"])
def test_a_training_learns(tmp_path, variants):
    config = tiny_config(variants, steps=300, log_every=50, evaluate_every=300)
    config.model.channels, config.model.decoder_channels = (8, 8, 16), 8
    train(config, tmp_path, open_task(config), squares_data(config))
    rows = read_rows(tmp_path)
    loss = [row["loss"] for row in rows if row["kind"] == "train"]
    assert loss[-1] < 0.7 * loss[0]
    if variants.startswith("supervised"):
        masks = [row["masks"] for row in rows if row["kind"] == "train"]
        assert masks[-1] < 0.5 * masks[0], masks


def test_the_supervised_variant_can_be_trained():
    """Traced, not compiled."""
    task = open_task(tiny_config("supervised,tiny"))
    variables = jax.eval_shape(lambda: task.init_variables(0))
    batch = squares(0, 2, 2, 16, 16)
    assert task.batch_fields == {"flow", "modal"}
    _, aux = jax.eval_shape(lambda v, b: task.loss(v, b, jnp.ones(())), variables, batch)
    assert "masks" in aux.metrics
    sums, prediction = jax.eval_shape(task.evaluate, variables, batch)
    assert sums.keys() == {f"{s}_{part}" for s in task.scores for part in ("sum", "count")}
    assert prediction.shape == (4, 2, 16, 16, 4)
    assert task.step_flops(2) == 2 * task.step_flops(1) > 0


def test_j_is_that_of_the_objects_whatever_their_slots():
    batch = jax.tree.map(jnp.asarray, squares(0, 1, 3, 16, 16))
    modal = np.repeat(np.asarray(batch["modal"][0]), 2, axis=0)

    class Known(MotionGroupingTask):
        def _terms(self, params, part):
            masks = true_masks(jnp.asarray(modal), 4)[..., jnp.array([3, 1, 0, 2])]
            masks = masks.at[:, :, :8].multiply(self.kept)
            terms = dict.fromkeys(("reconstruction", "entropy", "consistency"), jnp.zeros(()))
            return terms, SimpleNamespace(masks=masks)

    task = open_task(tiny_config("three,tiny"))
    known = Known(task.config, task.weights)
    for kept, low, high in ((1.0, 1, 1), (0.0, 0.1, 0.9)):
        object.__setattr__(known, "kept", kept)
        sums, _ = known.evaluate(Variables({}), batch)
        assert float(sums["j_count"]) == batch["modal"].any(axis=(2, 3, 4)).sum() * 2
        assert low <= float(sums["j_sum"] / sums["j_count"]) <= high


def test_true_masks_for_any_number_of_slots():
    modal = squares(0, 1, 3, 16, 16)["modal"][0]
    four = true_masks(jnp.asarray(modal), 4)
    np.testing.assert_array_equal(four[..., :3], modal)
    np.testing.assert_array_equal(four.sum(axis=-1), 1)
    two = true_masks(jnp.asarray(modal), 2)
    np.testing.assert_array_equal(two[..., 0], modal.any(axis=-1))
    six = true_masks(jnp.asarray(modal), 6)
    assert not np.asarray(six[..., 3:5]).any()
    np.testing.assert_array_equal(six[..., 5], four[..., 3])


def test_the_mask_loss_is_that_of_the_best_assignment():
    truth = true_masks(jnp.asarray(squares(0, 1, 3, 16, 16)["modal"][0]), 4)
    soft = 0.7 * truth + 0.1
    expected = -np.log(0.8 + 1e-5)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        np.testing.assert_allclose(mask_loss(soft[..., order], truth), expected, rtol=1e-4)


def test_settings_that_make_no_sense_are_refused():
    config = tiny_config("supervised,tiny")
    config.data.videos = "videos"
    with pytest.raises(UserError, match="Videos have no true masks"):
        open_task(config)
    config = tiny_config()
    config.loss.grow_every = 0
    with pytest.raises(UserError, match="grow_every"):
        open_task(config)
    config = tiny_config()
    config.model.gaps = (1, 2)
    with pytest.raises(UserError, match="give a folder of videos with --config.data.videos"):
        open_task(config).open_data(config)

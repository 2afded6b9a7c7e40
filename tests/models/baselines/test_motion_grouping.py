"""Motion Grouping: shapes, gradients, parity with the published program, strict import."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.models.baselines.motion_grouping import (
    MotionGrouping,
    MotionGroupingConfig,
    init_params,
    model_input,
    parameter_shapes,
    upsample_transposed,
)
from oclr_jax.models.parameters import flatten, param_count
from oclr_jax.ops import motion_grouping_losses as losses
from oclr_jax.ops.flow_colors import flow_to_colors, normalize_colors
from oclr_jax.torch_import.names_motion_grouping import (
    import_motion_grouping,
    motion_grouping_entries,
)
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.torch_import import torch_writer as w

TINY = MotionGroupingConfig(
    slots=3, height=16, width=24, channels=(4, 4, 8), decoder_channels=4, iterations=1
)
# Of the terms of the published loss; the golden terms are weighted.
WEIGHTS = {"reconstruction": 100, "entropy": 0.01, "consistency": 0.01}
# Golden cases, with their tolerances of masks and of gradients relative to the largest one.
CASES = {"k2rgb": (1e-5, 2e-3), "k3uv": (4e-6, 3e-5)}


@functools.cache
def tiny_params():
    return jax.jit(lambda: init_params(TINY, 0))()


def tiny_flow(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (count, 16, 24, 2)).astype(np.float32)


@pytest.mark.parametrize("change", [{}, {"sees": "uv"}, {"compute_dtype": "bfloat16"}])
def test_shapes_and_types(change):
    config = dataclasses.replace(TINY, **change)
    params = jax.eval_shape(lambda: init_params(config, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    inputs = jax.eval_shape(lambda x: model_input(config, x), tiny_flow())
    channels = 2 if config.sees == "uv" else 3
    assert inputs.shape == (2, 16, 24, channels)
    output = jax.eval_shape(MotionGrouping(config).apply, {"params": params}, inputs)
    assert output.masks.shape == (2, 16, 24, 3) and output.masks.dtype == np.float32
    assert output.layers.shape == (2, 16, 24, 3, channels)
    assert output.combined.shape == (2, 16, 24, channels)
    assert output.slots.shape == (2, 3, 8)


def test_parameter_counts():
    def count(**changes):
        config = MotionGroupingConfig(**changes)
        return param_count(jax.eval_shape(lambda: init_params(config, 0)))

    assert count() == 4_766_276
    assert count(sees="uv") == 4_763_075
    assert count(slots=4) == 4_766_276 + 2 * 256


def test_a_gradient_reaches_every_parameter():
    inputs = model_input(TINY, jnp.asarray(tiny_flow()))

    def weighted_sum(params):
        output = MotionGrouping(TINY).apply({"params": params}, inputs)
        return sum(
            jnp.vdot(leaf, jax.random.normal(jax.random.key(i), leaf.shape))
            for i, leaf in enumerate(output)
        )

    gradients = flatten(jax.jit(jax.grad(weighted_sum))(tiny_params()))
    largest = {path: np.abs(leaf).max() for path, leaf in gradients.items()}
    assert all(np.isfinite(value) for value in largest.values())
    unreached = {path for path, value in largest.items() if value < 1e-4}
    # Instance norm removes the bias before it, and the softmax over the slots a common offset.
    removed = {f"encoder{i}/conv/bias" for i in range(1, 7)} | {"decoder4/conv/bias"}
    removed |= {f"decoder{i}/bias" for i in (1, 2, 3)}
    assert unreached <= removed | {f"slot_attention/{n}/bias" for n in ("query", "norm_slots")}


def test_wrong_sizes_and_settings_are_refused():
    with pytest.raises(ValueError, match="12x24"):
        MotionGrouping(TINY).apply({"params": tiny_params()}, jnp.zeros((1, 12, 24, 3)))
    assert MotionGroupingConfig.from_dict(TINY.to_dict()) == TINY
    for change in (
        *({"slots": 1}, {"sees": "hue"}, {"channels": (4, 4)}, {"gaps": (0, 1)}, {"gaps": ()}),
        *({"compute_dtype": "int8"}, {"height": 20}, {"iterations": 0}, {"colour": 1}),
    ):
        with pytest.raises(ValueError):
            MotionGroupingConfig.from_dict({**TINY.to_dict(), **change})


def test_the_transposed_convolution_from_its_definition():
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(1, 3, 4, 2)), rng.normal(size=(5, 5, 2, 3))
    wanted = np.zeros((1, 6, 8, 3))
    for i, j, a, b in np.ndindex(3, 4, 5, 5):
        row, column = 2 * i - 2 + a, 2 * j - 2 + b
        if 0 <= row < 6 and 0 <= column < 8:
            wanted[0, row, column] += x[0, i, j] @ kernel[a, b]
    found = upsample_transposed(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "reference/later/golden/motion_grouping.npz") as file:
        return dict(file)


def state_of(golden, case: str) -> dict[str, np.ndarray]:
    prefix = f"{case}/w/"
    return {name[len(prefix) :]: x for name, x in golden.items() if name.startswith(prefix)}


def loss_of(params, config, inputs):
    """The published loss, its weighted terms, and the output."""
    output = MotionGrouping(config).apply({"params": params}, inputs)
    terms = {
        "reconstruction": losses.reconstruction_loss(inputs, output.combined),
        "entropy": losses.entropy_loss(output.masks),
    }
    if config.slots == 2:
        pairs = output.masks.reshape(-1, 2, *output.masks.shape[1:])
        terms["consistency"] = losses.consistency_loss(pairs)
    terms = {name: WEIGHTS[name] * value for name, value in terms.items()}
    return sum(terms.values()), (terms, output)


@pytest.mark.parametrize("case", CASES)
def test_parity_with_the_published_program(golden, case):
    tolerance, _ = CASES[case]
    params, config = import_motion_grouping(state_of(golden, case))
    assert (config.slots, config.sees) == ((2, "colors") if case == "k2rgb" else (3, "uv"))
    assert (config.channels, config.decoder_channels) == ((8, 16, 32), 16)
    inputs = jnp.asarray(np.moveaxis(golden[f"{case}/flow"], 1, -1))
    loss, (terms, output) = jax.jit(loss_of, static_argnums=1)(params, config, inputs)
    masks = np.moveaxis(golden[f"{case}/masks"][:, :, 0], 1, -1)
    np.testing.assert_allclose(output.masks, masks, atol=tolerance)
    np.testing.assert_allclose(output.slots, golden[f"{case}/slots"], atol=5e-5)
    layers = np.moveaxis(golden[f"{case}/recons"], (1, 2), (3, 4))
    np.testing.assert_allclose(output.layers, layers, atol=1e-4)
    combined = np.moveaxis(golden[f"{case}/recon_combined"], 1, -1)
    np.testing.assert_allclose(output.combined, combined, atol=1e-4)
    for name, value in terms.items():
        np.testing.assert_allclose(value, golden[f"{case}/loss_{name}"], rtol=2e-5)
    np.testing.assert_allclose(loss, golden[f"{case}/loss_total"], rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_parity_of_gradients(golden, case):
    params, config = import_motion_grouping(state_of(golden, case))
    inputs = jnp.asarray(np.moveaxis(golden[f"{case}/flow"], 1, -1))
    compiled = jax.jit(jax.grad(loss_of, has_aux=True), static_argnums=1)
    gradients, _ = compiled(params, config, inputs)
    gradients, entries = flatten(gradients), motion_grouping_entries()
    checked = [name for name in golden if name.startswith(f"{case}/grad/")]
    assert len(checked) == 10
    for name in checked:
        entry = entries[name.removeprefix(f"{case}/grad/")]
        wanted = entry.to_flax(golden[name])
        limit = CASES[case][1] * np.abs(wanted).max()
        np.testing.assert_allclose(gradients[entry.paths[0]], wanted, atol=limit, err_msg=name)


def test_losses_and_the_choice_of_pairs(golden):
    masks = jnp.asarray(np.moveaxis(golden["losses/masks"][:, :, 0], 1, -1))
    flow, combined = (
        jnp.asarray(np.moveaxis(golden[f"losses/{name}"], 1, -1))
        for name in ("flow", "recon_combined")
    )
    pairs = masks.reshape(4, 2, *masks.shape[1:])
    np.testing.assert_allclose(
        losses.consistency_pairs(pairs), golden["losses/consistency_pairs"], rtol=1e-5
    )
    best = golden["losses/consistency_pairs"].reshape(4, 4).argmin(axis=1)
    assert len(set(best)) > 1, "else a loss without the choice would pass"

    def small_terms(masks):
        pairs = masks.reshape(4, 2, *masks.shape[1:])
        return {
            "entropy": WEIGHTS["entropy"] * losses.entropy_loss(masks),
            "consistency": WEIGHTS["consistency"] * losses.consistency_loss(pairs),
        }

    terms = small_terms(masks)
    terms["reconstruction"] = 100 * losses.reconstruction_loss(flow, combined)
    for name, value in terms.items():
        np.testing.assert_allclose(value, golden[f"losses/{name}"], rtol=1e-5)
    gradient = jax.grad(lambda masks: sum(small_terms(masks).values()))(masks)
    wanted = np.moveaxis(golden["losses/grad_masks_of_entropy_plus_consistency"][:, :, 0], 1, -1)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5 * np.abs(wanted).max())


def test_flow_as_colors(golden):
    colors = flow_to_colors(jnp.asarray(golden["flow_rgb/flow"]))
    np.testing.assert_allclose(colors, golden["flow_rgb/rgb"], atol=1e-5)
    np.testing.assert_allclose(normalize_colors(colors), golden["flow_rgb/model_input"], atol=2e-5)
    unknown = flow_to_colors(jnp.asarray(golden["flow_rgb/flow_unknown"]))
    np.testing.assert_allclose(unknown, golden["flow_rgb/rgb_unknown"], atol=1e-5)
    zero = flow_to_colors(jnp.zeros((4, 5, 2)))
    np.testing.assert_array_equal(zero, golden["flow_rgb/rgb_of_zero_flow"])


def test_colors_do_not_depend_on_speed_and_have_finite_gradients():
    flow = jnp.asarray(tiny_flow(1)[0])
    np.testing.assert_allclose(flow_to_colors(flow), flow_to_colors(3 * flow), atol=1e-5)
    both = flow_to_colors(jnp.stack([flow, 3 * flow]))
    np.testing.assert_allclose(both[0], both[1], atol=1e-5)


def random_state() -> dict[str, np.ndarray]:
    shapes, rng = parameter_shapes(TINY), np.random.default_rng(0)
    return {
        name: rng.normal(size=entry.torch_shape(shapes)).astype(np.float32)
        for name, entry in motion_grouping_entries().items()
    }


def test_every_number_of_a_release_arrives(tmp_path):
    state = {f"module.{name}": array for name, array in random_state().items()}
    path = w.save_state_zip(tmp_path / "in.pth", state)
    info = convert_checkpoint(path, tmp_path / "out.safetensors")
    assert info.model == dataclasses.replace(TINY, height=128, width=224, iterations=5)
    assert info.flow["estimator"] == "raft"
    params = flatten(load_weights(tmp_path / "out.safetensors", "motion_grouping")[0])
    numbers = np.sort(np.concatenate([leaf.ravel() for leaf in params.values()]))
    expected = np.sort(np.concatenate([array.ravel() for array in state.values()]))
    np.testing.assert_array_equal(numbers, expected)


def test_missing_extra_and_misshapen_entries_are_all_listed():
    state = random_state()
    del state["mlp.0.bias"], state["decoder_cnn.4.weight"]
    state |= {"head.bias": np.zeros(3, np.float32), "mlp.2.weight": np.zeros((9, 9), np.float32)}
    with pytest.raises(UserError) as caught:
        import_motion_grouping(state)
    for part in ("mlp.0.bias", "decoder_cnn.4.weight", "extra: head.bias", "mlp.2.weight is [9, 9"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="not a checkpoint of Motion Grouping: it holds 'head"):
        import_motion_grouping({"head.bias": np.zeros(3, np.float32)})
    state = random_state() | {"encoder_cnn.0.weight": np.zeros((4, 7, 5, 5), np.float32)}
    with pytest.raises(UserError, match="its input has 7 channels"):
        import_motion_grouping(state)


def test_the_released_list_of_names_is_what_the_table_expects(shared_dir):
    path = shared_dir / "reference/later/state_dicts/motion_grouping_state_dict.json"
    released = {name: tuple(shape) for name, shape in json.loads(path.read_text()).items()}
    shapes = parameter_shapes(MotionGroupingConfig())
    entries = motion_grouping_entries().items()
    assert {name: entry.torch_shape(shapes) for name, entry in entries} == released

"""The OCLR model: shapes, gradients to every parameter, parity with the published program."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.models.parameters import flatten, param_count
from oclr_jax.ops.losses import LossWeights, layered_loss
from oclr_jax.torch_import.names_oclr import import_oclr, oclr_entries

TINY = OCLRConfig(
    queries=2, frames=3, height=16, width=32, channels=(4, 4, 8), heads=4, feedforward=12,
    encoder_layers=1, decoder_layers=1,
)  # fmt: skip


def tiny_flow(frames: int = 3, height: int = 16, width: int = 32, batch: int = 1) -> jax.Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(batch, frames, height, width, 4)), jnp.float32)


@functools.cache
def tiny_params():
    return jax.jit(OCLR(TINY).init)(jax.random.key(0), tiny_flow())["params"]


def run(config: OCLRConfig, flow: jax.Array, seed: int | None = None):
    """The model output for `tiny_params`, with dropout if a seed is given."""
    rngs = {} if seed is None else {"dropout": jax.random.key(seed)}
    apply = jax.jit(OCLR(config).apply, static_argnames="train")
    return apply({"params": tiny_params()}, flow, train=seed is not None, rngs=rngs)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"compute_dtype": "bfloat16"},
        {"instance_norm": False},
        {"queries": 5, "encoder_layers": 2, "decoder_layers": 2},
        {"channels": (4, 6, 8, 16), "heads": 8},
    ],
)
def test_shapes_and_types(change):
    config = dataclasses.replace(TINY, **change)
    flow = tiny_flow(frames=2, height=24, width=16, batch=2)  # not the config's own sizes
    variables = jax.eval_shape(OCLR(config).init, jax.random.key(0), flow)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    output = jax.eval_shape(OCLR(config).apply, variables, flow)
    assert output.amodal_logits.shape == (2, 2, 24, 16, config.queries)
    assert output.order.shape == (2, config.queries)
    assert output.amodal_logits.dtype == output.order.dtype == np.float32


def test_flow_of_wrong_size_is_rejected():
    with pytest.raises(ValueError, match="18x32"):
        run(TINY, tiny_flow(height=18))
    with pytest.raises(Exception, match="flow"):
        run(TINY, tiny_flow()[..., :2])


def test_parameter_counts():
    def count(**change) -> int:
        config = OCLRConfig(**change)
        flow = jax.ShapeDtypeStruct((1, 1, 16, 16, 2 * len(config.gaps)), jnp.float32)
        return param_count(jax.eval_shape(OCLR(config).init, jax.random.key(0), flow)["params"])

    default = 20_660_932
    assert count() == default
    assert count(instance_norm=False) == default
    # A query has an embedding, eight rows of the map projection, and a mask channel with bias.
    assert count(queries=4) - default == 512 + 8 * 512 + (32 + 1)
    encoder_layer = 4 * (512 * 512 + 512) + 2 * (512 * 512 + 512) + 2 * 2 * 512
    assert default - count(encoder_layers=2) == encoder_layer
    assert default - count(decoder_layers=2) == encoder_layer + 4 * (512 * 512 + 512) + 2 * 512
    assert default - count(gaps=(1,)) == 2 * 9 * 32


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_gradient_reaches_every_parameter(remat):
    model = OCLR(dataclasses.replace(TINY, remat=remat))
    flow = tiny_flow()

    def weighted_sum(params):
        output = model.apply(
            {"params": params}, flow, train=True, rngs={"dropout": jax.random.key(1)}
        )
        leaves = enumerate(jax.tree.leaves(output))
        return sum(
            jnp.vdot(leaf, jax.random.normal(jax.random.key(i), leaf.shape)) for i, leaf in leaves
        )

    gradients = flatten(jax.jit(jax.grad(weighted_sum))(tiny_params()))
    largest = {path: np.abs(leaf).max() for path, leaf in gradients.items()}
    assert all(np.isfinite(value) for value in largest.values())
    # The softmax is invariant to a common offset of all keys, so this gradient is exactly 0.
    unreached = {path for path, value in largest.items() if value < 1e-6}
    assert {path for path in unreached if not path.endswith("key/bias")} == set()


def test_remat_does_not_change_the_result():
    flow = tiny_flow()
    results = [run(dataclasses.replace(TINY, remat=remat), flow, 3) for remat in (False, True)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *results)


def test_bfloat16_stays_near_float32():
    exact = run(TINY, tiny_flow()).amodal_logits
    coarse = run(dataclasses.replace(TINY, compute_dtype="bfloat16"), tiny_flow()).amodal_logits
    error = np.sqrt(np.mean((exact - coarse) ** 2))
    assert 0 < error < 0.05 * np.std(exact)


def test_dropout_depends_on_its_key_and_is_off_in_inference():
    train = functools.cache(lambda seed: run(TINY, tiny_flow(), seed).amodal_logits)
    np.testing.assert_array_equal(run(TINY, tiny_flow(), 1).amodal_logits, train(1))
    assert np.abs(train(1) - train(2)).max() > 1e-4
    assert np.abs(run(TINY, tiny_flow()).amodal_logits - train(1)).max() > 1e-4


def test_clips_of_a_batch_are_independent():
    flow = tiny_flow(batch=2)
    together, alone = run(TINY, flow), run(TINY, flow[1:])
    np.testing.assert_allclose(together.amodal_logits[1:], alone.amodal_logits, atol=1e-5)
    np.testing.assert_allclose(together.order[1:], alone.order, atol=1e-5)


def test_zero_flow_gives_finite_output_and_gradients():
    model, flow = OCLR(TINY), jnp.zeros_like(tiny_flow())
    gradients = jax.jit(jax.grad(lambda p: model.apply({"params": p}, flow).amodal_logits.sum()))(
        tiny_params()
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_config_survives_json_and_rejects_unknown_fields():
    config = dataclasses.replace(TINY, gaps=(2, -2), compute_dtype="bfloat16")
    assert OCLRConfig.from_dict(config.to_dict()) == config
    for change in (
        {"heads": "4"},
        {"order_from": "colour"},
        {"passes": 3},
        {"colour": 1},
        {"heads": 3},
        {"height": 30},
        {"channels": 4},
    ):
        with pytest.raises(ValueError):
            OCLRConfig.from_dict({**TINY.to_dict(), **change})
    without = {name: value for name, value in TINY.to_dict().items() if name != "heads"}
    with pytest.raises(ValueError, match="heads"):
        OCLRConfig.from_dict(without)


# --- parity with the published program on random weights, in PyTorch's layout


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    path = Path(__file__).parents[1] / "golden" / "oclr.npz"
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def released(golden):
    """Parameters, model and flow from the golden file."""
    state = {name[2:]: array for name, array in golden.items() if name.startswith("w/")}
    params, config = import_oclr(state)
    return params, OCLR(config), jnp.asarray(golden["in_flow"].transpose(0, 1, 3, 4, 2))


def test_parity_of_outputs_and_intermediates(golden, released):
    params, model, flow = released
    output, state = jax.jit(lambda p, x: model.apply({"params": p}, x, mutable=["intermediates"]))(
        params, flow
    )
    logits = output.amodal_logits.transpose(0, 1, 4, 2, 3)
    np.testing.assert_allclose(logits, golden["out_amodal_logits"], atol=1e-4)
    per_frame = np.broadcast_to(output.order[:, None], golden["out_order"].shape)
    np.testing.assert_allclose(per_frame, golden["out_order"], atol=1e-4)
    inside = {name: values[0] for name, values in state["intermediates"].items()}
    bottleneck = inside["bottleneck"].transpose(0, 3, 1, 2)
    np.testing.assert_allclose(bottleneck, golden["mid_bottleneck"], atol=1e-4)
    np.testing.assert_allclose(inside["encoded"], golden["mid_btn_enc"], atol=1e-4)
    decoded = inside["decoded"].reshape(golden["mid_btn_dec"].shape)
    np.testing.assert_allclose(decoded, golden["mid_btn_dec"], atol=1e-4)
    np.testing.assert_allclose(inside["attention_maps"], golden["mid_heatmap"], atol=1e-4)


def test_parity_of_the_loss_and_its_gradients(golden, released):
    params, model, flow = released
    # The golden file has layers back to front.
    amodal, modal = (
        jnp.asarray(golden[name][:, :, ::-1].transpose(0, 1, 3, 4, 2))
        for name in ("gt_amodal", "gt_modal")
    )

    def total(params):
        output = model.apply({"params": params}, flow)
        weights = LossWeights(boundary=0.2, order=0.05, modal=0.1)
        return layered_loss(output.amodal_logits, output.order, amodal, modal, weights)[0]

    loss, gradients = jax.jit(jax.value_and_grad(total))(params)
    np.testing.assert_allclose(loss, golden["loss_total"], atol=1e-5)
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(gradients).items()}
    compared = 0
    for name, entry in oclr_entries(model.config).items():
        parts = [flat[path] for path in entry.paths]
        norm = np.sqrt(sum((part**2).sum() for part in parts))
        # One pre-activation lies so close to 0 that float32 rounding, which differs between
        # processors, decides on which side of the leaky ReLU it falls. That changes gradients by
        # up to 2e-6; the norm of the whole gradient is 0.69.
        np.testing.assert_allclose(
            norm, golden[f"gradnorm/{name}"], rtol=1e-3, atol=2e-6, err_msg=name
        )
        if f"grad/{name}" in golden:
            expected = entry.to_flax(golden[f"grad/{name}"])
            scale = np.abs(expected).max()
            np.testing.assert_allclose(parts[0], expected, atol=1e-3 * scale + 3e-7, err_msg=name)
            compared += 1
    assert compared == sum(name.startswith("grad/") for name in golden) == 5

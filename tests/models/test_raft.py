"""RAFT: the published numbers, both ways to correlate, gradients, precision."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.parameters import flatten, param_count, unflatten
from oclr_jax.models.raft import MIN_SIDE, RAFT, RAFTConfig, parameter_shapes
from oclr_jax.models.raft.update import upsample_bilinear, upsample_convex
from oclr_jax.ops.correlation import correlation_pyramid, lookup
from oclr_jax.torch_import.names_raft import import_raft

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


@pytest.fixture(scope="module", params=["raft_small", "raft_basic"])
def golden(request):
    """Published numbers, and our model with the same weights."""
    if request.param == "raft_small":
        path = GOLDEN / "raft_small.npz"
    else:
        path = request.getfixturevalue("shared_dir") / "reference" / "golden" / "raft_basic.npz"
    with np.load(path) as file:
        arrays = dict(file)
    weights = {key[2:]: arrays.pop(key) for key in list(arrays) if key.startswith("w/")}
    variables, config = import_raft(weights)
    assert config == RAFTConfig(small=request.param == "raft_small")
    return config, variables, arrays


def test_the_published_numbers(golden):
    config, variables, arrays = golden
    model = RAFT(config)
    first, second = (channels_last(arrays[f"in_image{i}"]) / np.float32(255) for i in (1, 2))
    iterations = int(arrays["iters"])

    @jax.jit
    def run(variables, first, second):
        flows = model.apply(variables, first, second, iterations)
        features = model.apply(variables, first, method=RAFT.features)
        return flows, features

    output, features = run(variables, first, second)
    close = np.testing.assert_allclose
    close(features, channels_last(arrays["mid_fmap1"]), atol=1e-3)
    close(output.coarse, channels_last(arrays["out_flow_low"]), atol=1e-3)
    close(output.flow[-1], channels_last(arrays["out_flow_up"]), atol=1e-3)
    for step in range(iterations):
        expected = channels_last(arrays[f"out_pred_{step}_stride4"])
        close(output.flow[step][:, ::4, ::4], expected, atol=1e-3)


def test_the_published_correlation_windows(golden):
    config, variables, arrays = golden
    model = RAFT(config)
    second = channels_last(arrays["in_image2"]) / np.float32(255)
    one = channels_last(arrays["mid_fmap1"])
    other = jax.jit(lambda v, x: model.apply(v, x, method=RAFT.features))(variables, second)
    pyramid = correlation_pyramid(jnp.asarray(one), other, 4, config.radius)
    position = jnp.asarray(channels_last(arrays["corr_lookup_coords"]))
    windows = jax.jit(lookup, static_argnums=2)(pyramid, position, config.radius)
    np.testing.assert_allclose(windows, channels_last(arrays["corr_lookup_out"]), atol=1e-3)


def random_variables(config: RAFTConfig) -> dict:
    """Variables at random, the statistics of batch norm included."""
    rng = np.random.default_rng(0)
    flat = {}
    for path, shape in parameter_shapes(config).items():
        values = rng.standard_normal(shape, np.float32)
        if path.endswith("kernel"):
            values *= np.sqrt(2 / np.prod(shape[:-1]))
        elif path.endswith(("scale", "var")):
            values = 1 + 0.2 * np.tanh(values)
        else:
            values *= 0.1
        flat[path] = values
    return unflatten(flat)


def random_frames(count: int, seed: int = 0) -> jax.Array:
    return jax.random.uniform(jax.random.key(seed), (count, MIN_SIDE, MIN_SIDE + 24, 3))


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_on_demand_correlation_gives_the_same_flow(small):
    config = RAFTConfig(small)
    variables = random_variables(config)
    frames = random_frames(4)
    stored, asked = (
        jax.jit(RAFT(config).apply, static_argnums=(3, 4))(
            variables, frames[:2], frames[2:], 3, on_demand
        )
        for on_demand in (False, True)
    )
    assert np.abs(stored.flow).max() > 0.1
    np.testing.assert_allclose(stored.flow, asked.flow, atol=1e-3)


def test_on_demand_correlation_holds_no_array_of_all_pairs():
    config = RAFTConfig(small=True)
    variables = parameter_shapes(config)
    shapes = {path: jax.ShapeDtypeStruct(shape, "f4") for path, shape in variables.items()}
    frame = jax.ShapeDtypeStruct((1, 1080, 1920, 3), "f4")
    cells = 135 * 240

    def largest(on_demand):
        def apply(variables, first, second):
            return RAFT(config).apply(variables, first, second, 2, on_demand)

        jaxpr = jax.make_jaxpr(apply)(unflatten(shapes), frame, frame)
        return max(size for size in _sizes(jaxpr.jaxpr))

    assert largest(on_demand=False) >= cells**2
    assert largest(on_demand=True) < cells**2 / 8


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                yield from _sizes(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_parameter_gets_a_gradient(small):
    config = RAFTConfig(small)
    variables = random_variables(config)
    frames = random_frames(2)

    @jax.jit
    def gradient(params):
        def loss(params):
            output = RAFT(config).apply(variables | {"params": params}, frames[:1], frames[1:], 2)
            target = jax.random.normal(jax.random.key(3), output.flow.shape)
            return jnp.square(output.flow - target).mean()

        return jax.grad(loss)(params)

    found = flatten(gradient(variables["params"]))
    idle = {path for path, leaf in found.items() if np.abs(leaf).max() < 1e-3}
    # Instance norm takes the mean away, and with it what a bias before it adds.
    lost = {path for path in found if path.startswith("feature_encoder/") and "bias" in path}
    assert idle <= lost - {"feature_encoder/output/bias"}
    assert all(np.isfinite(leaf).all() for leaf in found.values())


def test_number_of_parameters():
    for small, count in ((True, 990_162), (False, 5_257_536)):
        config = RAFTConfig(small)
        frame = jax.ShapeDtypeStruct((1, MIN_SIDE, MIN_SIDE, 3), "f4")
        variables = jax.eval_shape(RAFT(config).init, jax.random.key(0), frame, frame)
        assert param_count(variables["params"]) == count
        assert ("batch_stats" in variables) == (not small)


@pytest.mark.slow
def test_bfloat16_stays_near_and_gives_float32():
    frames = random_frames(2)
    flows = []
    for dtype in ("float32", "bfloat16"):
        config = RAFTConfig(small=True, compute_dtype=dtype)
        variables = random_variables(RAFTConfig(small=True))
        apply = jax.jit(RAFT(config).apply, static_argnums=(3,))
        flows.append(apply(variables, frames[:1], frames[1:], 3).flow)
    assert flows[1].dtype == jnp.float32
    assert not np.array_equal(*flows)
    error = np.linalg.norm(flows[0] - flows[1]) / np.linalg.norm(flows[0])
    assert error < 0.1


def test_sizes_that_do_not_fit_are_refused():
    model = RAFT(RAFTConfig(small=True))
    for size in ((64, 68), (56, 128)):
        frame = jax.ShapeDtypeStruct((1, *size, 3), "f4")
        with pytest.raises(ValueError, match="at least 64"):
            jax.eval_shape(model.init, jax.random.key(0), frame, frame)


def test_convex_upsampling_chooses_the_neighbour_that_the_mask_chooses():
    flow = jnp.arange(24.0).reshape(1, 3, 4, 2)
    mask = np.full((1, 3, 4, 9, 8, 8), -1e9, np.float32)
    mask[:, :, :, 4] = 0  # the middle
    mask[0, 1, 2, :, 5, 6] = -1e9
    mask[0, 1, 2, 2, 5, 6] = 0  # above, to the right
    fine = np.asarray(upsample_convex(flow, jnp.asarray(mask)))
    expected = 8 * np.repeat(np.repeat(np.asarray(flow), 8, axis=1), 8, axis=2)
    expected[0, 8 + 5, 16 + 6] = 8 * np.asarray(flow)[0, 0, 3]
    np.testing.assert_allclose(fine, expected)


def test_bilinear_upsampling_keeps_corners_and_straight_lines():
    x = np.arange(5.0, dtype=np.float32)
    flow = jnp.asarray(np.broadcast_to(np.stack([x, 2 * x], -1), (1, 4, 5, 2)))
    fine = np.asarray(upsample_bilinear(flow))
    line = 8 * np.linspace(0, 4, 40)
    np.testing.assert_allclose(fine[0, 7], np.stack([line, 2 * line], -1), rtol=1e-5, atol=1e-5)

"""DINO: the published numbers, interpolated positions, attention in chunks, gradients."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from oclr_jax.models.dino import (
    DINO,
    IMAGE_MEAN,
    IMAGE_STD,
    MODELS,
    DINOConfig,
    antialiased_positions,
    attend,
    interpolate_positions,
    normalize_images,
    parameter_shapes,
)
from oclr_jax.models.parameters import flatten, unflatten
from oclr_jax.torch_import.names_dino import import_dino

TINY = DINOConfig(patch=16, width=16, depth=2, heads=2)
# DINOv2 with and without registers; positions of 4x4 patches.
V2 = DINOConfig(patch=14, width=16, depth=2, heads=2, trained_side=56, layer_scale=True)
REGISTERS = replace(V2, registers=3)


@pytest.fixture(scope="module")
def golden(shared_dir):
    """Published numbers, and the model with the same weights."""
    with np.load(shared_dir / "reference" / "golden" / "dino.npz") as file:
        arrays = dict(file)
    weights = {key[2:]: arrays.pop(key) for key in list(arrays) if key.startswith("w/")}
    variables, config = import_dino(weights)
    assert config == DINOConfig(depth=2)
    return DINO(config), variables, arrays


def random_variables(config: DINOConfig) -> dict:
    rng = np.random.default_rng(0)
    flat = {}
    for path, shape in parameter_shapes(config).items():
        values = rng.standard_normal(shape, np.float32)
        if path.endswith("kernel"):
            values /= np.sqrt(np.prod(shape[:-1]))
        elif path.endswith("scale"):
            values = 1 + 0.2 * np.tanh(values)
        flat[path] = values
    return unflatten(flat)


def random_images(config: DINOConfig, batch: int = 2) -> jax.Array:
    shape = (batch, 2 * config.patch, 3 * config.patch, 3)
    return jax.random.normal(jax.random.key(1), shape)


def test_the_published_numbers(golden):
    model, variables, arrays = golden
    images = jnp.asarray(np.moveaxis(arrays["in_image"], 1, -1))
    embedded = model.apply(variables, images, method=DINO.embed)
    np.testing.assert_allclose(embedded, arrays["mid_tokens"], atol=3e-5)
    first, last = jax.jit(model.apply, static_argnums=2)(variables, images, 2)
    np.testing.assert_allclose(first, arrays["out_n2_first"], atol=3e-5)
    np.testing.assert_allclose(last, arrays["out_last"], atol=3e-5)
    np.testing.assert_allclose(last[:, 0], arrays["out_cls"], atol=3e-5)


def test_the_published_positions(golden):
    _, _, arrays = golden
    sizes = {8: ("64x112", "128x224", "480x832", "480x480"), 16: ("128x224", "480x832")}
    for patch, names in sizes.items():
        native = jnp.asarray(arrays[f"posgrid_p{patch}_in"])
        side = 224 // patch
        assert np.array_equal(interpolate_positions(native, side, side), native)
        for name in names:
            height, width = (int(part) // patch for part in name.split("x"))
            found = interpolate_positions(native, height, width)
            np.testing.assert_allclose(found, arrays[f"posgrid_p{patch}_{name}"], atol=3e-5)


def test_tokens_have_the_documented_shape_and_order():
    model, variables = DINO(TINY), random_variables(TINY)
    images = random_images(TINY)
    apply = jax.jit(model.apply, static_argnums=2)
    tokens = apply(variables, images, 2)
    assert [(t.shape, t.dtype) for t in tokens] == [((2, 1 + 2 * 3, 16), jnp.float32)] * 2
    (alone,) = apply(variables, images, 1)
    np.testing.assert_allclose(alone, tokens[1], atol=1e-6)
    # Row 1, column 2 of the patches is the last token.
    changed = images.at[:, 16:, 32:].add(1.0)
    embed = [model.apply(variables, x, method=DINO.embed) for x in (images, changed)]
    moved = np.abs(embed[1] - embed[0]).max(axis=(0, 2)) > 0
    assert moved.tolist() == [False] * 6 + [True]


def test_the_last_blocks_continue_the_first_ones():
    model, variables, images = DINO(TINY), random_variables(TINY), random_images(TINY)

    @jax.jit
    def both_ways(variables):
        (whole,) = model.apply(variables, images)
        tokens = model.apply(variables, images, 1, method=DINO.first_blocks)
        return whole, model.apply(variables, tokens, 1, method=DINO.last_blocks)

    whole, found = both_ways(variables)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def reference(variables: dict, images: np.ndarray, config: DINOConfig) -> np.ndarray:
    """The model of DINOv2 in float64, written out; images of the trained size."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    batch, height, width, _ = images.shape
    rows, columns = height // config.patch, width // config.patch
    parts = images.reshape(batch, rows, config.patch, columns, config.patch, 3)
    tokens = np.einsum("brycxi,yxio->brco", parts, params["patches"]["kernel"])
    tokens = tokens.reshape(batch, rows * columns, -1) + params["patches"]["bias"]
    first = np.broadcast_to(params["class_token"], (batch, 1, config.width))
    tokens = np.concatenate([first, tokens], axis=1) + params["positions"]
    if config.registers:
        registers = np.broadcast_to(params["registers"], (batch, config.registers, config.width))
        tokens = np.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)

    def norm(layer, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * layer["scale"] + layer["bias"]

    def dense(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    for index in range(config.depth):
        block = params[f"blocks_{index}"]
        packed = dense(block["qkv"], norm(block["norm1"], tokens))
        query, key, value = np.split(packed, 3, axis=-1)
        heads = []
        for one in np.split(np.arange(config.width), config.heads):
            scores = query[..., one] @ key[..., one].swapaxes(1, 2) / np.sqrt(len(one))
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ value[..., one])
        attended = dense(block["projection"], np.concatenate(heads, axis=-1))
        tokens = tokens + block["attention_scale"] * attended
        hidden = dense(block["hidden"], norm(block["norm2"], tokens))
        hidden = hidden * (1 + erf(hidden / np.sqrt(2))) / 2
        tokens = tokens + block["output_scale"] * dense(block["output"], hidden)
    return norm(params["norm"], tokens)


@pytest.mark.parametrize("config", [V2, REGISTERS])
def test_dinov2_agrees_with_its_definition(config):
    variables = random_variables(config)
    images = np.random.default_rng(3).standard_normal((2, 56, 56, 3)).astype(np.float32)
    (found,) = jax.jit(DINO(config).apply)(variables, jnp.asarray(images))
    assert found.shape == (2, config.extra_tokens + 16, 16)
    np.testing.assert_allclose(found, reference(variables, images, config), atol=3e-5)


def test_positions_with_registers_are_antialiased():
    """Cubic, a = -0.5, its support widened by the scale where the grid shrinks."""
    embedding = np.random.default_rng(0).standard_normal((1, 1 + 16, 3)).astype(np.float32)

    def weights(new: int) -> np.ndarray:
        scale = max(4 / new, 1.0)
        centre = (np.arange(new) + 0.5) * 4 / new
        x = np.abs(np.arange(4) + 0.5 - centre[:, None]) / scale
        near = (1.5 * x - 2.5) * x**2 + 1
        far = -0.5 * (((x - 5) * x + 8) * x - 4)
        found = np.where(x <= 1, near, np.where(x < 2, far, 0))
        return found / found.sum(1, keepdims=True)

    grid = embedding[0, 1:].reshape(4, 4, 3)
    for height, width in ((2, 3), (4, 7), (9, 4)):
        expected = np.einsum("yi,xj,ijc->yxc", weights(height), weights(width), grid)
        found = antialiased_positions(jnp.asarray(embedding), height, width)
        np.testing.assert_allclose(found[0, 1:], expected.reshape(-1, 3), atol=1e-5)
        np.testing.assert_array_equal(found[:, 0], embedding[:, 0])
    assert np.array_equal(antialiased_positions(jnp.asarray(embedding), 4, 4), embedding)


def test_attention_does_not_depend_on_the_chunks():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 3, 7, 4))
    scores = np.einsum("bknd,bkmd->bknm", query, key) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bknm,bkmd->bknd", weights, value)

    def run(max_scores):
        def loss(query):
            found = attend(query, key, value, max_scores)
            return jnp.square(found).sum(), found

        gradient, found = jax.jit(jax.grad(loss, has_aux=True))(query)
        return found, gradient

    _, whole = run(10**6)
    for max_scores in (10**6, 3 * 42, 1):  # one chunk; 7 queries as 3 + 3 + 1; one at a time
        found, gradient = run(max_scores)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(gradient, whole, atol=1e-5)


def test_attention_of_a_large_image_holds_no_array_of_all_pairs():
    tokens = 1 + 60 * 104
    array = jax.ShapeDtypeStruct((2, 6, tokens, 64), "f4")
    sizes = list(_sizes(jax.make_jaxpr(attend)(array, array, array).jaxpr))
    assert 2**22 < max(sizes) < 2**23 < 2 * 6 * tokens**2


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                yield from _sizes(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("config", [TINY, REGISTERS])
def test_every_parameter_gets_a_gradient(config):
    variables, images = random_variables(config), random_images(config)

    @jax.jit
    def gradient(variables):
        def loss(variables):
            (tokens,) = DINO(config).apply(variables, images)
            return jnp.square(tokens - jax.random.normal(jax.random.key(2), tokens.shape)).mean()

        return jax.grad(loss)(variables)

    found = flatten(gradient(variables))
    assert found.keys() == parameter_shapes(config).keys()
    assert all(np.isfinite(leaf).all() for leaf in found.values())
    assert not [path for path, leaf in found.items() if np.abs(leaf).max() < 1e-4]


def test_number_of_parameters():
    counts = {
        name: sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())
        for name, config in MODELS.items()
    }
    assert counts == {
        "ViT-S/8": 21_670_272,
        "ViT-S/16": 21_665_664,
        "ViT-B/8": 85_807_872,
        "ViT-B/16": 85_798_656,
        "DINOv2 ViT-S/14": 22_056_192,
        "DINOv2 ViT-S/14 with registers": 22_057_728,
    }


def test_bfloat16_stays_near_and_gives_float32():
    variables, images = random_variables(TINY), random_images(TINY)
    half = DINOConfig(**TINY.to_dict() | {"compute_dtype": "bfloat16"})
    (exact,), (near,) = (jax.jit(DINO(config).apply)(variables, images) for config in (TINY, half))
    assert near.dtype == jnp.float32
    assert not np.array_equal(near, exact)
    assert np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.02


def test_images_are_normalised_by_channel():
    images = jnp.asarray([IMAGE_MEAN, np.add(IMAGE_MEAN, IMAGE_STD)]).reshape(1, 1, 2, 3)
    expected = np.array([[0.0] * 3, [1.0] * 3]).reshape(1, 1, 2, 3)
    np.testing.assert_allclose(normalize_images(images), expected, atol=1e-6)
    assert IMAGE_STD == (0.228, 0.224, 0.225)


def test_wrong_sizes_and_settings_are_refused():
    variables = random_variables(TINY)
    with pytest.raises(ValueError, match="multiples of 16 pixels, not 32x40"):
        DINO(TINY).apply(variables, jnp.zeros((1, 32, 40, 3)))
    for last in (0, 3):
        with pytest.raises(ValueError, match=r"last must be in 1\.\.2"):
            DINO(TINY).apply(variables, random_images(TINY), last)
    wrong = {"heads": 5, "depth": 0, "patch": 9, "width": -1, "compute_dtype": "float16"}
    wrong |= {"registers": -1, "trained_side": 100}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match="patch" if name == "trained_side" else name):
            DINOConfig(**{name: value})
    assert DINOConfig.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(ValueError, match="exactly the fields"):
        DINOConfig.from_dict({"patch": 8})

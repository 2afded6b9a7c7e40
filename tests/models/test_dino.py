"""DINO: the published numbers, interpolated positions, attention in chunks, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.dino import (
    DINO,
    IMAGE_MEAN,
    IMAGE_STD,
    MODELS,
    DINOConfig,
    attend,
    interpolate_positions,
    normalize_images,
    parameter_shapes,
)
from oclr_jax.models.parameters import flatten, unflatten
from oclr_jax.torch_import.names_dino import import_dino

TINY = DINOConfig(patch=16, width=16, depth=2, heads=2)


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
    (whole,) = model.apply(variables, images)
    for last in (1, 2):
        tokens = model.apply(variables, images, last, method=DINO.first_blocks)
        found = model.apply(variables, tokens, last, method=DINO.last_blocks)
        np.testing.assert_allclose(found, whole, atol=1e-5)


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
    assert 2**23 < max(sizes) <= 2**24 < 2 * 6 * tokens**2


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                yield from _sizes(getattr(inner, "jaxpr", inner))


def test_every_parameter_gets_a_gradient():
    variables, images = random_variables(TINY), random_images(TINY)

    @jax.jit
    def gradient(variables):
        def loss(variables):
            (tokens,) = DINO(TINY).apply(variables, images)
            return jnp.square(tokens - jax.random.normal(jax.random.key(2), tokens.shape)).mean()

        return jax.grad(loss)(variables)

    found = flatten(gradient(variables))
    assert found.keys() == parameter_shapes(TINY).keys()
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in found.values())
    assert not [path for path, leaf in found.items() if float(jnp.abs(leaf).max()) < 1e-4]


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
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            DINOConfig(**{name: value})
    assert DINOConfig.from_dict(TINY.to_dict()) == TINY
    with pytest.raises(ValueError, match="exactly the fields"):
        DINOConfig.from_dict({"patch": 8})

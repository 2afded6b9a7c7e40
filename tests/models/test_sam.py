"""SAM: the published numbers, windows without padding, prompts, frames, gradients; HQ-SAM."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.parameters import flatten, unflatten
from oclr_jax.models.sam import MODELS, SAM, Prompts, SAMConfig, parameter_shapes
from oclr_jax.models.sam.encoder import attend_in_window, split
from oclr_jax.models.sam.frames import (
    IMAGE_MEAN,
    IMAGE_STD,
    frame_logits,
    grid_points,
    mask_logits,
    resized_size,
    square_image,
    square_points,
)
from oclr_jax.torch_import.names_sam import import_sam
from tests.conftest import ROOT

# A grid of 5 patches has windows of 3 and of 2.
TINY = SAMConfig(
    width=8, depth=2, heads=2, global_blocks=(1,), side=20, patch=4, window=3, channels=16,
    decoder_heads=2, decoder_hidden=12, quality_hidden=6, mask_channels=16,
)  # fmt: skip
CASES = ("points_mask", "points_only", "mask_only", "box_only", "points_box_mask")
KEY_BIASES = 7  # attention layers of the decoder; a softmax removes the offset that they add


def random_variables(config: SAMConfig) -> dict:
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


def every_prompt(config: SAMConfig) -> list[Prompts]:
    """Prompts that use all parameters together."""
    rng = np.random.default_rng(1)
    points, boxes = (
        jnp.asarray(rng.uniform(0, config.side, size), jnp.float32) for size in ((2, 3, 2), (2, 4))
    )
    labels = jnp.asarray([[1, 0, 1], [0, 1, 1]])
    masks = jnp.asarray(rng.standard_normal((2, config.mask_side, config.mask_side)), jnp.float32)
    return [Prompts(points, labels, None, masks), Prompts(boxes=boxes)]


@pytest.fixture(scope="module")
def golden(shared_dir):
    """Published numbers, the configuration and the weights of the same model."""
    with np.load(shared_dir / "reference" / "later" / "golden" / "sam.npz") as file:
        arrays = dict(file)
    weights = {key[2:]: arrays.pop(key) for key in list(arrays) if key.startswith("w/")}
    variables, config = import_sam(weights)
    assert config.global_blocks == (1, 3) and (config.side, config.window) == (256, 14)
    return replace(config, decoder_heads=4), variables, arrays


def run_published(golden, dtype, names):
    """Embeddings of the two images, and the masks of these cases on the first, by name."""
    config, variables, arrays = golden
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    model, images = SAM(config), np.zeros((2, 256, 256, 3), dtype)
    mean, std = np.array(IMAGE_MEAN, dtype), np.array(IMAGE_STD, dtype)
    images[0, :144] = (arrays["pre_down_resized"] - mean) / std
    images[1] = (np.moveaxis(arrays["image_full"], 0, -1) - mean) / std
    embeddings = jax.jit(partial(model.apply, method=SAM.encode))(variables, images)
    parts = {
        "points": {"points": arrays["points"].astype(dtype), "labels": arrays["labels"]},
        "box": {"boxes": arrays["boxes"].astype(dtype)},
        "mask": {"masks": arrays["mask_input"][:, 0].astype(dtype)},
    }
    parts = jax.tree.map(jnp.asarray, parts)

    @jax.jit
    def decode(variables, embedding):
        found = {}
        for case in names:
            used = [parts[part] for part in case.split("_") if part in parts]
            prompts = Prompts(**{name: array for part in used for name, array in part.items()})
            found[case] = model.apply(variables, embedding, prompts, method=SAM.decode)
        return found

    return jax.tree.map(np.asarray, (embeddings, decode(variables, embeddings[0])))


@pytest.mark.parametrize("names", [CASES[:1], pytest.param(CASES[1:], marks=pytest.mark.slow)])
def test_the_published_numbers(golden, names):
    config, _, arrays = golden
    embeddings, cases = run_published(golden, np.float32, names)
    expected = np.moveaxis(arrays["image_embeddings"], 1, -1)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=2e-5)
    for case, masks in cases.items():
        for name, of in (("multi", np.s_[:, 1:]), ("single", np.s_[:, :1])):
            quality = arrays[f"{case}/iou_{name}"]
            np.testing.assert_allclose(masks.quality[of], quality, rtol=0, atol=5e-6)
            logits, whole = np.asarray(masks.logits[of]), f"{case}/low_res_{name}"
            if whole not in arrays:
                logits, whole = logits[..., ::4, ::4], f"{whole}_sub"
            np.testing.assert_allclose(logits, arrays[whole], rtol=0, atol=2e-5)
    if "points_mask" not in cases:
        return
    logits = jnp.asarray(cases["points_mask"].logits[:, :1])
    logits = np.asarray(frame_logits(logits, 240, 427, config.side))
    expected = arrays["points_mask/post_single_sub"]
    np.testing.assert_allclose(logits[..., ::3, ::3], expected, rtol=0, atol=2e-5)
    found = np.unpackbits(arrays["points_mask/post_single_packed"], axis=-1, count=427)
    assert ((logits[:, 0] > 0) != found).mean() < 1e-4


def test_the_published_numbers_in_float64(golden):
    with jax.enable_x64(True):
        embeddings, cases = run_published(golden, np.float64, CASES[:1])
    arrays, masks = golden[2], cases["points_mask"]
    expected = np.moveaxis(arrays["f64/image_embeddings"], 1, -1)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-9)
    quality = arrays["f64/points_mask/iou_multi"]
    np.testing.assert_allclose(masks.quality[:, 1:], quality, rtol=0, atol=1e-9)
    for name, of in (("multi", np.s_[:, 1:, ::4, ::4]), ("single", np.s_[:, :1, ::4, ::4])):
        expected = arrays[f"f64/points_mask/low_res_{name}_sub"]
        np.testing.assert_allclose(masks.logits[of], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.float64, 1e-9), pytest.param(np.float32, 3e-4, marks=pytest.mark.slow)],
)
def test_the_numbers_of_hq_sam(dtype, tolerance):
    """The published program's, with random weights; they are as large as 29."""
    with np.load(ROOT / "tests" / "golden" / "sam_hq.npz") as file:
        arrays = dict(file)
    weights = {key[2:]: arrays.pop(key) for key in list(arrays) if key.startswith("w/")}
    variables, config = import_sam(weights)
    assert config.hq and config.global_blocks == (1,)
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    image = np.random.default_rng(0).standard_normal((160, 160, 3)).astype(np.float32)
    prompts = Prompts(
        arrays["points"].astype(dtype),
        arrays["labels"],
        None,
        arrays["mask_input"].astype(dtype),
    )

    @jax.jit
    def run(variables, image, prompts):
        embedding = SAM(config).apply(variables, image[None], method=SAM.encode)[0]
        return embedding, SAM(config).apply(variables, embedding, prompts, method=SAM.decode)

    with jax.enable_x64(dtype == np.float64):
        embedding, masks = run(variables, image.astype(dtype), prompts)
    embedding, (logits, quality) = jax.tree.map(np.asarray, (embedding, masks))
    best = np.argmax(quality[:, 1:], axis=1)
    for name, found in {
        "embedding_sub": embedding[::2, ::2, :32],
        "early_sub": embedding[::2, ::2, 32::2],
        "quality_single": quality[:, 0],
        "single_sub": logits[:, 0, ::3, ::3],
        "best_sub": logits[np.arange(2), 1 + best, ::3, ::3],
    }.items():
        np.testing.assert_allclose(found, arrays[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("config", [TINY, replace(TINY, hq=True)])
def test_outputs_have_the_documented_shapes(config):
    model, image = SAM(config), jax.ShapeDtypeStruct((2, 20, 20, 3), "f4")
    variables = random_variables(config)
    embeddings = jax.eval_shape(partial(model.apply, method=SAM.encode), variables, image)
    assert (embeddings.shape, embeddings.dtype) == ((2, 5, 5, 24 if config.hq else 16), "float32")
    assert embeddings.shape[-1] == config.embedding_channels
    for prompts in every_prompt(config):
        masks = jax.eval_shape(
            partial(model.apply, method=SAM.decode),
            variables,
            jax.ShapeDtypeStruct(embeddings.shape[1:], "f4"),
            prompts,
        )
        assert (masks.logits.shape, masks.logits.dtype) == ((2, 4, 20, 20), "float32")
        assert (masks.quality.shape, masks.quality.dtype) == ((2, 4), "float32")


def test_every_parameter_gets_a_gradient():
    config = replace(TINY, hq=True)  # with all parameters of SAM
    variables, model = random_variables(config), SAM(config)
    image = jax.random.normal(jax.random.key(1), (20, 20, 3))

    @jax.jit
    def gradient(variables):
        def loss(variables):
            embedding = model.apply(variables, image[None], method=SAM.encode)[0]
            targets = jax.random.normal(jax.random.key(2), (2, 4, 20, 20))
            total = 0.0
            for prompts in every_prompt(config):
                masks = model.apply(variables, embedding, prompts, method=SAM.decode)
                total += jnp.square(masks.logits - targets).mean()
                total += jnp.square(masks.quality).mean()
            return total

        return jax.grad(loss)(variables)

    found = flatten(gradient(variables))
    assert found.keys() == parameter_shapes(config).keys()
    assert all(np.isfinite(leaf).all() for leaf in found.values())
    without = [path for path, leaf in found.items() if np.abs(leaf).max() < 1e-4]
    assert len(without) == KEY_BIASES and all(path.endswith("key/bias") for path in without), (
        without
    )


def test_number_of_parameters():
    config = MODELS["ViT-B"]
    shapes = parameter_shapes(config)
    # The frequencies are not trained and not counted as parameters in the publication.
    sizes = {path: int(np.prod(shape)) for path, shape in shapes.items()}
    assert sizes.pop("params/prompts/frequencies") == 256
    parts = {
        part: sum(size for path, size in sizes.items() if path.startswith(f"params/{part}/"))
        for part in ("encoder", "prompts", "decoder")
    }
    assert parts == {"encoder": 89_670_912, "prompts": 6_220, "decoder": 4_058_340}


def padded_attention(query, key, value, rows, columns, empty_key, empty_value):
    """The definition in float64: the rest of the window is filled with tokens."""
    n, k, height, width, d = query.shape
    side = (len(rows) + 1) // 2
    keys = np.broadcast_to(empty_key[None, :, None, None], (n, k, side, side, d)).copy()
    values = np.broadcast_to(empty_value[None, :, None, None], (n, k, side, side, d)).copy()
    keys[:, :, :height, :width], values[:, :, :height, :width] = key, value
    found = np.zeros(query.shape)
    for y in range(height):
        for x in range(width):
            q = query[:, :, y, x]
            place = np.arange(side)
            scores = np.einsum("nkd,nkijd->nkij", q, keys) / np.sqrt(d)
            scores += np.einsum("nkd,id->nki", q, rows[y - place + side - 1])[..., None]
            scores += np.einsum("nkd,jd->nkj", q, columns[x - place + side - 1])[:, :, None]
            weights = np.exp(scores - scores.max((-2, -1), keepdims=True))
            weights /= weights.sum((-2, -1), keepdims=True)
            found[:, :, y, x] = np.einsum("nkij,nkijd->nkd", weights, values)
    return found


@pytest.mark.parametrize("size", [(5, 5), (5, 2), (3, 5), (4, 3)])
def test_attention_in_a_part_of_a_window_agrees_with_padding(size):
    rng = np.random.default_rng(3)
    query, key, value = rng.standard_normal((3, 2, 2, *size, 4))
    tables, empty = 2 * rng.standard_normal((2, 9, 4)), rng.standard_normal((2, 2, 4))
    expected = padded_attention(query, key, value, *tables, *empty)
    inputs = [x.astype(np.float32) for x in (query, key, value, *tables, *empty)]
    for at_once in (10**6, 100, 1):
        found = jax.jit(partial(attend_in_window, max_scores=at_once))(*map(jnp.asarray, inputs))
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_windows_cover_the_grid_and_none_is_padded():
    assert split(64, 14) == [(0, 4, 14), (56, 1, 8)] and split(64, 64) == [(0, 1, 64)]
    config = replace(TINY, depth=1, global_blocks=())
    encode = partial(SAM(config).apply, method=SAM.encode)
    inputs = random_variables(config), np.zeros((1, 20, 20, 3), np.float32)
    assert " pad[" not in str(jax.make_jaxpr(encode)(*inputs))


def test_bfloat16_stays_near_and_gives_float32():
    variables = random_variables(TINY)
    image = jax.random.normal(jax.random.key(1), (1, 20, 20, 3))
    exact, near = (
        jax.jit(partial(SAM(config).apply, method=SAM.encode))(variables, image)
        for config in (TINY, replace(TINY, compute_dtype="bfloat16"))
    )
    assert near.dtype == jnp.float32 and not np.array_equal(near, exact)
    assert np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.03


def test_frames_are_prepared_as_published(golden):
    arrays = golden[2]
    for height, width, new_height, new_width in arrays["pre_shapes"]:
        assert resized_size(int(height), int(width), 1024) == (new_height, new_width)
    points = square_points(arrays["pre_points_in"], 240, 427, 256)
    np.testing.assert_allclose(points, arrays["pre_points_out"], rtol=1e-12)
    for name in ("down", "up"):
        square = square_image(arrays[f"pre_{name}_in"], 256)
        levels = square * np.array(IMAGE_STD) + np.array(IMAGE_MEAN)
        np.testing.assert_array_equal(np.rint(levels)[:144], arrays[f"pre_{name}_resized"])
        assert not square[144:].any()
    square = square_image(arrays["pre_down_in"], 256)[::4, ::4]
    expected = np.moveaxis(arrays["pre_down_padded_sub"][0], 0, -1)
    np.testing.assert_allclose(square, expected, atol=1e-6)


def test_masks_become_log_odds_in_the_square_image():
    soft = np.zeros((50, 100), np.float32)
    soft[10:30, 20:60] = 0.9
    logits = mask_logits(soft, 100, 200, SAMConfig())
    # 200 columns become 1024, so a pixel of the mask covers 2.56 of the prompt.
    assert logits.shape == (256, 256)
    np.testing.assert_allclose(logits[30:70, 56:150], np.log(9), rtol=1e-5)
    assert (logits > 0).sum() == pytest.approx(20 * 40 * 2.56**2, rel=0.03)
    assert (logits[128:] == logits.min()).all() and logits.min() == pytest.approx(np.log(1 / 511))


def test_points_lie_on_a_grid_inside_the_mask():
    disc = np.hypot(*(np.mgrid[:60, :80] - np.array([[[30]], [[40]]]))) < 20
    points = grid_points(disc, 10)
    assert points.shape == (10, 2) and len({tuple(point) for point in points}) == 10
    x, y = points.astype(int).T
    assert disc[y, x].all() and len(set(x)) <= 5 and len(set(y)) <= 5
    # Evenly spread: their mean is the centre, and none is near the border.
    np.testing.assert_allclose(points.mean(axis=0), [40, 30], atol=3)
    assert np.hypot(x - 40, y - 30).max() < 18
    ring = disc & (np.hypot(*(np.mgrid[:60, :80] - np.array([[[30]], [[40]]]))) > 12)
    x, y = grid_points(ring, 10).astype(int).T
    assert ring[y, x].all()
    few = np.zeros((5, 5), bool)
    few[1, 2:4] = True
    found = {tuple(point) for point in grid_points(few, 10)}
    assert found == {(2, 1), (3, 1)} and grid_points(few, 10).shape == (10, 2)
    with pytest.raises(ValueError, match="empty mask"):
        grid_points(np.zeros((3, 3), bool), 10)


def test_wrong_settings_and_prompts_are_refused():
    wrong = {"heads": 3, "depth": 0, "patch": 3, "decoder_heads": 3, "mask_channels": 6}
    wrong |= {"global_blocks": (2,), "compute_dtype": "float16"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            replace(TINY, **{name: value})
    with pytest.raises(ValueError, match="hq needs"):
        replace(TINY, hq=True, global_blocks=())
    assert SAMConfig.from_dict(TINY.to_dict()) == TINY
    decode = partial(SAM(TINY).apply, random_variables(TINY), method=SAM.decode)
    with pytest.raises(ValueError, match="needs points, boxes or masks"):
        decode(jnp.zeros((5, 5, 16)), Prompts())
    with pytest.raises(ValueError, match="points and labels"):
        decode(jnp.zeros((5, 5, 16)), Prompts(points=jnp.zeros((1, 1, 2))))

"""The mask corrector: shapes, gradients, parity with the published program, slots, variants."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.backbones import OWN, own_backbone
from oclr_jax.models.corrector import (
    Corrector,
    CorrectorConfig,
    Exemplars,
    center_mean,
    init_params,
    pool_exemplars,
)
from oclr_jax.models.layers.slot_attention import slot_weights
from oclr_jax.models.parameters import flatten, param_count
from oclr_jax.torch_import.names_corrector import import_corrector

TINY = CorrectorConfig(
    objects=2, backgrounds=2, height=16, width=32, channels=(4, 4, 8), layers=1, heads=2,
    feedforward=12, backbone=OWN, feature_channels=6,
)  # fmt: skip


def tiny_inputs(frames: int = 3, exemplars: int = 2, batch: int = 1, objects: int = 2):
    """Images, masks, features, exemplars and frame numbers."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def binary(*shape):
        return jnp.asarray(rng.random(shape) > 0.6, jnp.float32)

    found = Exemplars(
        features=normal(batch, exemplars, objects, 4, 8, 6),
        masks=binary(batch, exemplars, 16, 32, objects),
        scores=jnp.asarray(rng.random((batch, exemplars, objects)), jnp.float32),
        frames=jnp.asarray(rng.integers(0, 6, (batch, exemplars, objects))),
        valid=jnp.ones((batch, exemplars, objects), bool),
    )
    images = normal(batch, frames, 16, 32, 3)
    numbers = jnp.broadcast_to(jnp.arange(frames), (batch, frames))
    masks = binary(batch, frames, 16, 32, objects)
    return images, masks, normal(batch, frames, 4, 8, 6), found, numbers


@functools.cache
def tiny_params(masks_from: str = "attention"):
    return jax.jit(lambda: init_params(dataclasses.replace(TINY, masks_from=masks_from), 0))()


def run(config: CorrectorConfig, *inputs, seed: int | None = None):
    rngs = {} if seed is None else {"dropout": jax.random.key(seed)}
    apply = jax.jit(Corrector(config).apply, static_argnames="train")
    params = tiny_params(config.masks_from)
    return apply({"params": params}, *inputs, train=seed is not None, rngs=rngs)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"compute_dtype": "bfloat16"},
        {"masks_from": "alphas"},
        {"masks_from": "dense"},
        {"objects": 3, "backgrounds": 1},
        {"objects": 1, "backgrounds": 4, "layers": 2},
    ],
)
def test_shapes_and_types(change):
    config = dataclasses.replace(TINY, **change)
    params = jax.eval_shape(lambda: init_params(config, 0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    for frames, exemplars in ((1, 1), (5, 3), (10, 15)):
        inputs = tiny_inputs(frames, exemplars, 2, config.objects)
        output = jax.eval_shape(Corrector(config).apply, {"params": params}, *inputs)
        assert output.mask_logits.shape == (2, frames, 16, 32, config.objects)
        assert {leaf.dtype for leaf in jax.tree.leaves(output)} == {np.dtype(np.float32)}
        if config.masks_from == "dense":
            assert output.reconstruction is None and output.alphas is None
        else:
            assert output.reconstruction.shape == (2, frames, 4, 8, 6)
            count = config.objects + config.backgrounds
            assert output.alphas.shape == (2, frames, 4, 8, count)
        if config.masks_from == "attention":
            assert output.map_logits.shape == (2, frames, 4, 8, config.objects)
        else:
            assert output.map_logits is None


def test_inputs_that_do_not_fit_are_rejected():
    images, masks, features, *rest = tiny_inputs()
    with pytest.raises(ValueError, match="1 objects"):
        run(TINY, images, masks[..., :1], features, *rest)
    with pytest.raises(ValueError, match="14x32"):
        run(TINY, images[:, :, :14], masks[:, :, :14], features, *rest)
    with pytest.raises(ValueError, match="grid of"):
        run(TINY, images, masks, features[:, :, :3], *rest)


def test_the_given_masks_can_be_the_start():
    inputs = tiny_inputs()
    plain, started = (run(dataclasses.replace(TINY, mask_logit=v), *inputs) for v in (0.0, 1.5))
    added = started.mask_logits - plain.mask_logits
    np.testing.assert_allclose(added, np.where(inputs[1] > 0, 1.5, -1.5), atol=1e-5)
    np.testing.assert_array_equal(started.alphas, plain.alphas)


def test_logits_fall_with_the_distance_from_the_given_masks():
    images, masks, *rest = tiny_inputs()
    masks = np.zeros_like(masks)
    masks[:, :, 4:8, 10:14, 0] = 1  # 4 pixels high and wide
    masks[:, 1, ..., 0] = 0  # not found in one frame
    configs = (dataclasses.replace(TINY, distance_logit=v) for v in (0.0, 3.0))
    plain, near = (np.asarray(run(c, images, masks, *rest).mask_logits) for c in configs)
    lost = plain - near
    assert not lost[..., 1:].any() and not lost[:, 1].any()
    np.testing.assert_allclose(lost[:, 0, 4:8, 10:14, 0], 0, atol=1e-5)
    np.testing.assert_allclose(lost[0, 0, 5, 13:19, 0], 3 * np.arange(6) / 4, atol=1e-5)


def test_parameter_count():
    params = jax.eval_shape(lambda: init_params(CorrectorConfig(), 0))
    assert param_count(params) == 12_704_900
    own = jax.eval_shape(lambda: init_params(CorrectorConfig(backbone=OWN), 0))
    assert param_count(own["backbone"]) <= 3_000_000


@pytest.mark.parametrize(
    "masks_from",
    [
        "attention",
        pytest.param("alphas", marks=pytest.mark.slow),
        pytest.param("dense", marks=pytest.mark.slow),
    ],
)
def test_a_gradient_reaches_every_parameter(masks_from):
    config = dataclasses.replace(TINY, masks_from=masks_from)
    images, masks, _, exemplars, frames = tiny_inputs()

    def weighted_sum(params):
        backbone = functools.partial(own_backbone(config).apply, {"params": params["backbone"]})
        shown = backbone(jnp.tile(images[0, :1], (4, 1, 1, 1)) + 0.1)
        output = Corrector(config).apply(
            {"params": params},
            images,
            masks,
            backbone(images[0])[None],
            exemplars._replace(features=shown.reshape(1, 2, 2, 4, 8, 6)),
            frames,
            train=True,
            rngs={"dropout": jax.random.key(1)},
        )
        return sum(
            jnp.vdot(leaf, jax.random.normal(jax.random.key(i), leaf.shape))
            for i, leaf in enumerate(jax.tree.leaves(output))
        )

    gradients = flatten(jax.jit(jax.grad(weighted_sum))(tiny_params(masks_from)))
    largest = {path: np.abs(leaf).max() for path, leaf in gradients.items()}
    assert all(np.isfinite(value) for value in largest.values())
    unreached = {path for path, value in largest.items() if value < 1e-6}
    # A softmax over keys is invariant to a common offset of all keys, one over queries to a common
    # offset of all queries, and that of the alphas too.
    offsets = ("key/bias", "target_attention/query/bias", "exemplar_attention/query/bias")
    offsets += () if masks_from == "alphas" else ("alpha2/bias",)
    assert {path for path in unreached if not path.endswith(offsets)} == set()


def test_clips_are_independent():
    inputs = tiny_inputs(batch=2)
    together = run(TINY, *inputs)
    alone = run(TINY, *jax.tree.map(lambda x: x[1:], inputs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1:], b, atol=1e-4), together, alone)


def test_exemplars_of_padding_change_nothing():
    images, masks, features, exemplars, frames = tiny_inputs()
    exact = run(TINY, images, masks, features, exemplars, frames)
    padded = jax.tree.map(
        lambda x: jnp.concatenate([x, jnp.ones_like(x), jnp.ones_like(x)], axis=1), exemplars
    )
    valid = padded.valid.at[:, 2:].set(False)
    found = run(TINY, images, masks, features, padded._replace(valid=valid), frames)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, exact)
    # Also without any exemplar the output is finite.
    none = exemplars._replace(valid=jnp.zeros_like(exemplars.valid))
    assert np.isfinite(run(TINY, images, masks, features, none, frames).mask_logits).all()


@pytest.mark.slow
def test_a_query_does_not_see_exemplars_of_its_own_frame():
    images, masks, features, exemplars, _ = tiny_inputs(frames=2)
    numbers = jnp.array([[4, 5]])
    changed = exemplars._replace(frames=jnp.full_like(exemplars.frames, 4))
    valid = exemplars.valid.at[:, 1:].set(False)
    state = [
        Corrector(TINY).apply(
            {"params": tiny_params()}, images, masks, features,
            changed._replace(valid=valid, features=changed.features.at[:, 0].add(shift)),
            numbers, mutable=["intermediates"],
        )[1]["intermediates"]
        for shift in (0.0, 1.0)
    ]  # fmt: skip
    # Frame 4 is the only exemplar: its queries see none. Its own features enter the pooled query of
    # both frames, so what is compared is that nothing is NaN where a query sees no key.
    assert np.isfinite(state[0]["queries"][0]).all()
    assert np.isfinite(state[1]["queries"][0]).all()


def test_a_query_without_keys_has_no_weights_and_a_finite_gradient():
    """The published program divides by 0 here and spreads NaN."""
    hidden = jnp.zeros((1, 3, 2), bool).at[0, 1].set(True)
    valid = jnp.ones((1, 2), bool)
    scores = jax.random.normal(jax.random.key(0), (1, 2, 3, 2, 4)) * 200
    weights = slot_weights(scores, hidden, valid)
    totals = weights.sum(axis=(3, 4))
    np.testing.assert_allclose(totals[:, :, 0], 1, atol=1e-5)
    np.testing.assert_array_equal(totals[:, :, 1], 0)
    gradient = jax.grad(lambda s: jnp.square(slot_weights(s, hidden, valid)).sum())(scores)
    assert np.isfinite(gradient).all()


def test_queries_compete_for_keys():
    rng = np.random.default_rng(1)
    scores = jnp.asarray(rng.normal(size=(1, 1, 3, 2, 4)), jnp.float32)
    nothing, all_valid = jnp.zeros((1, 3, 2), bool), jnp.ones((1, 2), bool)
    shares = jax.nn.softmax(scores, axis=2)
    expected = shares / shares.sum(axis=(3, 4), keepdims=True)
    np.testing.assert_allclose(slot_weights(scores, nothing, all_valid), expected, atol=1e-6)
    ordinary = jax.nn.softmax(scores.reshape(1, 1, 3, 8)).reshape(scores.shape)
    found = slot_weights(scores, nothing, all_valid, compete=False)
    np.testing.assert_allclose(found, ordinary, atol=1e-6)


def test_one_query_per_object_is_pooled_from_its_exemplars():
    features = jnp.arange(2 * 2 * 2, dtype=jnp.float32).reshape(1, 2, 1, 2, 2, 1)
    masks = jnp.zeros((1, 2, 4, 4, 1)).at[0, :, 0, 2].set(1.0)  # the first pixel of cell (0, 1)
    masks = masks.at[0, 1, 3, 3].set(1.0)  # not the first pixel of its cell
    one = jnp.ones((1, 2, 1))
    exemplars = Exemplars(features, masks, one.at[0, 1].set(3.0), one.astype(int), one > 0)
    np.testing.assert_allclose(pool_exemplars(exemplars, 2), [[[(1 + 3 * 5) / 4]]])
    empty = exemplars._replace(masks=jnp.zeros_like(masks))
    np.testing.assert_array_equal(pool_exemplars(empty, 2), [[[0.0]]])


def test_downsampling_reads_the_centre_of_each_cell():
    masks = jnp.arange(64.0).reshape(8, 8)[None, :, :, None]
    np.testing.assert_allclose(center_mean(masks, 8)[0, 0, 0, 0], (27 + 28 + 35 + 36) / 4)
    np.testing.assert_allclose(center_mean(masks, 4)[0, :, :, 0], [[13.5, 17.5], [45.5, 49.5]])


def test_bfloat16_stays_near_float32():
    exact = run(TINY, *tiny_inputs()).mask_logits
    coarse = run(dataclasses.replace(TINY, compute_dtype="bfloat16"), *tiny_inputs()).mask_logits
    error = np.sqrt(np.mean((exact - coarse) ** 2))
    assert 0 < error < 0.1 * np.std(exact)


def test_dropout_is_off_in_inference():
    inputs = tiny_inputs()
    first, second = (run(TINY, *inputs, seed=seed).mask_logits for seed in (1, 2))
    assert np.abs(first - second).max() > 1e-4


def test_config_survives_json_and_rejects_unknown_fields():
    assert CorrectorConfig.from_dict(TINY.to_dict()) == TINY
    for change in (
        {"heads": 4},
        {"masks_from": "masks"},
        {"colour": 1},
        {"objects": 0},
        {"height": 18},
    ):
        with pytest.raises(ValueError):
            CorrectorConfig.from_dict({**TINY.to_dict(), **change})


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "reference" / "golden" / "corrector.npz") as file:
        return dict(file)


def test_parity_with_the_published_program(golden):
    params, config = import_corrector(
        {name[2:]: array for name, array in golden.items() if name.startswith("w/")}
    )
    assert config == CorrectorConfig(channels=(16, 32, 64, 128), layers=2)

    def last(name, axis=2):
        return jnp.asarray(np.moveaxis(golden[name], axis, -1), jnp.float32)

    exemplars = Exemplars(
        features=jnp.asarray(golden["in_feats_global"]).reshape(1, 4, 3, 8, 14, -1),
        masks=last("in_masks_global"),
        scores=jnp.asarray(golden["in_scores_global"]),
        frames=jnp.asarray(golden["in_global_list"].transpose(0, 2, 1)),
        valid=jnp.ones((1, 4, 3), bool),
    )
    inputs = (
        last("in_rgb_local", 1)[None],
        last("in_masks_local"),
        jnp.asarray(golden["in_feats_local"]).reshape(1, 3, 8, 14, -1),
        exemplars,
        jnp.asarray(golden["in_local_list"]),
    )
    apply = functools.partial(Corrector(config).apply, mutable=["intermediates"])
    output, state = jax.jit(apply)({"params": params}, *inputs)
    inside = {name: values[0] for name, values in state["intermediates"].items()}
    np.testing.assert_allclose(inside["pooled"], golden["mid_query_init"], atol=1e-4)
    np.testing.assert_allclose(inside["queries"], golden["mid_query_out"], atol=1e-4)
    alphas = jnp.moveaxis(output.alphas, -1, 1)[..., None]
    np.testing.assert_allclose(alphas, golden["out_btn_mask"], atol=1e-4)
    features = inside["query_features"][..., ::8]
    np.testing.assert_allclose(features, golden["out_btn_feat_sub"], atol=1e-4)
    logits = jnp.moveaxis(output.mask_logits, -1, 2)
    np.testing.assert_allclose(logits, golden["out_mask_logits"], atol=1e-4)

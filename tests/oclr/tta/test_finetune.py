"""Fine-tuning: what it changes, what it leaves, which pairs it draws."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.dino import DINO, DINOConfig, normalize_images, parameter_shapes
from oclr_jax.models.parameters import flatten, unflatten
from oclr_jax.oclr.tta.backbone import Backbone, patch_features, working_size
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.oclr.tta.finetune import finetune, frame_pairs, learning_rate, pair_regions
from oclr_jax.ops.contrast import contrastive_loss

TINY = DINOConfig(patch=8, width=16, depth=3, heads=2)
CONFIG = TTAConfig(steps=20, warmup_steps=2, learning_rate=3e-3)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    rng = np.random.default_rng(0)
    flat = {
        name: rng.standard_normal(shape, np.float32) * (0.3 if len(shape) > 1 else 1)
        for name, shape in parameter_shapes(TINY).items()
    }
    return Backbone(jax.device_put(unflatten(flat)), TINY, "tiny", "digest", blocks=2)


@pytest.fixture(scope="module")
def video(backbone) -> tuple[list, list]:
    """Tokens and ids of four frames, 64x96 pixels: a bright object moves to the right."""
    rng = np.random.default_rng(1)
    frames, ids = [], []
    for frame in range(4):
        here = np.zeros((8, 12), np.uint8)
        here[2:7, frame : frame + 5] = 1
        noise = rng.integers(0, 60, (64, 96, 3)).astype(np.uint8)
        bright = np.kron(here, np.ones((8, 8), np.uint8))[..., None]
        frames.append(noise + 150 * bright)
        ids.append(here)
    return list(backbone.frozen_tokens(frames)), ids


def loss_of(backbone: Backbone, video) -> float:
    tokens, ids = video
    both = jnp.stack([tokens[0], tokens[2]])
    features = patch_features(backbone.config, backbone.variables, both, backbone.blocks)
    regions = (jnp.asarray(region) for region in pair_regions(ids[0], ids[2]))
    return float(contrastive_loss(features, *regions))


def test_the_loss_falls_and_only_the_last_blocks_change(backbone, video):
    before = {name: np.array(leaf) for name, leaf in flatten(backbone.variables).items()}
    adapted = finetune(backbone, *video, [range(4)], CONFIG)
    assert loss_of(adapted, video) < 0.9 * loss_of(backbone, video)
    for name, leaf in flatten(adapted.variables).items():
        changed = not np.array_equal(leaf, before[name])
        assert changed == name.startswith(("params/blocks_1/", "params/blocks_2/")), name
    # The next video starts with the weights that were loaded.
    after = flatten(backbone.variables)
    assert all(np.array_equal(after[name], leaf) for name, leaf in before.items())


def test_the_seed_decides(backbone, video):
    config = replace(CONFIG, steps=3)

    def last(config):
        adapted = finetune(backbone, *video, [range(4)], config)
        return np.asarray(adapted.last_params()["blocks_2"]["output"]["kernel"])

    assert np.array_equal(last(config), last(config))
    assert not np.array_equal(last(config), last(replace(config, seed=1)))


def test_the_learning_rate_warms_up_and_decays():
    config = TTAConfig(steps=10, warmup_steps=4, learning_rate=1.0)
    rates = [float(learning_rate(step, config)) for step in range(12)]
    expected = [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_nothing_to_learn_from(backbone, video):
    tokens, ids = video
    empty = [np.zeros_like(frame) for frame in ids]
    assert finetune(backbone, tokens, empty, [range(4)], CONFIG) is backbone
    assert finetune(backbone, tokens, ids, [range(4)], replace(CONFIG, steps=0)) is backbone


def test_pairs_stay_in_a_shot_and_show_objects():
    shown = np.ones((2, 2), np.uint8)
    ids = [shown, 0 * shown, shown, shown, shown]
    assert frame_pairs(ids, [range(3), range(3, 5)], 5) == [(0, 2), (3, 4)]
    assert frame_pairs([shown] * 4, [range(4)], 2) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_objects_of_a_pair_are_padded():
    first, second = np.zeros((2, 6, 6), np.uint8)
    first[:4, :4], second[2:, 2:] = 5, 9
    positive, negative = pair_regions(first, second)
    assert positive.shape == negative.shape == (2, 4, 36)
    assert positive.sum((0, 2)).tolist() == [9, 9, 0, 0]
    assert negative[:, 2:].sum() == 0


def test_the_split_model_is_the_whole_model(backbone):
    frames = np.random.default_rng(2).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)
    tokens = list(backbone.frozen_tokens(frames))
    assert [(t.shape, t.dtype) for t in tokens] == [((97, 16), np.float16)] * 3
    images = normalize_images(jnp.asarray(frames, jnp.float32) / 255)
    (whole,) = DINO(TINY).apply(backbone.variables, images)
    for frame in range(3):
        features = np.asarray(backbone.features(tokens[frame], 64, 96))
        expected = np.asarray(whole[frame, 1:]).reshape(8, 12, 16)
        expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
        np.testing.assert_allclose(features, expected, atol=5e-3)


def test_working_size():
    sizes = [(480, 854), (1080, 1920), (854, 480), (500, 500), (100, 1000)]
    expected = [(480, 832), (480, 832), (832, 480), (480, 448), (480, 4800)]
    assert [working_size(*size, TTAConfig()) for size in sizes] == expected

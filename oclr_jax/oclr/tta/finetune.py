"""Fine-tuning of the last transformer blocks on one video, by contrast of its masks.

First paper, supplement C, equations 6 to 9. The masks of the flow model are noisy annotations; the
rest of the model is frozen, so its tokens are computed once per frame.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float16, Int, Num, UInt8

from oclr_jax.models.dino import DINOConfig
from oclr_jax.oclr.tta.backbone import Backbone, patch_features
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.ops.contrast import contrast_regions, contrastive_loss
from oclr_jax.video.clip import progress

OBJECTS = 4  # a step's number of objects is padded to a multiple of this, so that few compile


def frame_pairs(
    ids: Sequence[UInt8[np.ndarray, "h w"]], shots: Sequence[range], max_distance: int
) -> list[tuple[int, int]]:
    """Pairs of frames of one shot, up to `max_distance` apart, that both show some object."""
    shown = [bool(frame.any()) for frame in ids]
    return [
        (first, second)
        for shot in shots
        for first in shot
        for second in range(first + 1, min(first + max_distance, shot.stop - 1) + 1)
        if shown[first] and shown[second]
    ]


def finetune(
    backbone: Backbone,
    tokens: Sequence[Float16[np.ndarray, "n c"]],
    ids: Sequence[UInt8[np.ndarray, "h w"]],
    shots: Sequence[range],
    config: TTAConfig,
    quiet: bool = True,
) -> Backbone:
    """Adapts the last blocks to a video; the model that is given stays as it is.

    Adam with a linear warm-up (as published) and a linear decay to 0 (as in the paper). Each step
    takes a random pair of frames.

    Args:
      tokens: of every frame, from `Backbone.frozen_tokens`.
      ids: object ids of every frame on the grid of the features, 0 for the background.
      shots: of the video.

    Returns:
      the adapted model; the given one if no pair of frames shows objects.
    """
    pairs = frame_pairs(ids, shots, config.max_distance)
    if not pairs or not config.steps:
        return backbone
    step, optimizer = make_step(backbone.config, config)
    params = backbone.last_params()
    state = optimizer.init(params)
    rng = np.random.default_rng(config.seed)
    drawn = [pairs[index] for index in rng.integers(len(pairs), size=config.steps)]
    for first, second in progress(drawn, "fine-tuning", config.steps, quiet):
        both = np.stack([tokens[first], tokens[second]])
        regions = pair_regions(ids[first], ids[second])
        params, state, _ = step(params, state, backbone.variables, both, *regions)
    return backbone.with_last_blocks(params)


def pair_regions(
    first: UInt8[np.ndarray, "h w"], second: UInt8[np.ndarray, "h w"]
) -> tuple[Num[np.ndarray, "2 k n"], Num[np.ndarray, "2 k n"]]:
    """Positive and negative cells of the objects that either frame shows; see `contrast_regions`.

    The number of objects is padded with empty ones.
    """
    both = np.stack([first, second])
    objects = [id for id in np.unique(both) if id]
    masks = np.stack([both == id for id in objects], axis=1)
    positive, negative = contrast_regions(masks)
    missing = -len(objects) % OBJECTS
    padding = ((0, 0), (0, missing), (0, 0))
    return tuple(
        np.pad(region.reshape(2, len(objects), -1).astype(np.uint8), padding)
        for region in (positive, negative)
    )


def learning_rate(step: Int[Array, ""] | int, config: TTAConfig) -> Float[Array, ""]:
    """A linear warm-up that is complete at step `warmup_steps - 1`, then a linear decay to 0."""
    warmup = jnp.minimum((step + 1) / config.warmup_steps, 1.0)
    left = (config.steps - step) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * warmup * jnp.clip(left, 0.0, 1.0)


def make_step(
    model: DINOConfig, config: TTAConfig
) -> tuple[Callable, optax.GradientTransformation]:
    """Compiles a step of fine-tuning, and makes its optimizer.

    The step is a pure function (parameters of the last blocks, optimizer state, variables of the
    model, tokens `[2 n c]` of two frames, their positive and negative cells) -> (parameters, state,
    loss). The state that is given may not be used again.
    """
    optimizer = optax.adam(partial(learning_rate, config=config))

    @partial(jax.jit, donate_argnums=(1,))
    def step(
        params: Any,
        state: Any,
        variables: Any,
        tokens: Float16[Array, "2 n c"],
        positive: Num[Array, "2 k m"],
        negative: Num[Array, "2 k m"],
    ) -> tuple[Any, Any, Float[Array, ""]]:
        def loss(params):
            adapted = {"params": variables["params"] | params}
            features = patch_features(model, adapted, tokens, config.blocks)
            return contrastive_loss(features, positive, negative)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step, optimizer

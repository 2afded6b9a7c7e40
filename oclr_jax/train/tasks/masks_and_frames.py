"""What the tasks `selector` and `corrector` share: their data, and masks with their truth."""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.models.backbones import FrozenBackbone, encode_images
from oclr_jax.models.dino import DINOConfig, normalize_images
from oclr_jax.models.precision import choose_precision
from oclr_jax.ops import layering, matching
from oclr_jax.ops.corruption import Corruption, corrupt_masks
from oclr_jax.train.data import TrainingData
from oclr_jax.train.task import Metrics
from oclr_jax.train.tasks.loaders import data_of, open_training, open_validation

Model = TypeVar("Model")
LAYERS = 3  # of a generated clip


def open_model_config(cls: type[Model], config: ConfigDict) -> Model:
    """The model of a training configuration, with "auto" precision resolved for this machine.

    Raises:
      UserError: the fields make no model.
    """
    values = config.model.to_dict()
    if values["compute_dtype"] == "auto":
        values["compute_dtype"] = choose_precision()
    try:
        return cls(**values)
    except ValueError as error:
        raise UserError(f"config.model makes no model: {error}.") from error


def open_rgb_clips(config: ConfigDict) -> TrainingData:
    """Clips of a generated dataset with stored predicted masks."""
    from data_pipelines.loaders.rgb_clips import make_rgb_clip_loader

    data = config.data
    options = {
        "frames": data.frames,
        "height": config.model.height,
        "width": config.model.width,
        "predicted": data.predicted,
    }
    training = open_training(make_rgb_clip_loader, config, stride=data.stride, **options)
    validation = open_validation(make_rgb_clip_loader, config, **options)
    for loader in (training, validation):
        layers = loader.settings["predicted_masks"]["shape"][-1]
        if layers != LAYERS:
            raise UserError(
                f"The predicted masks {data.predicted} have {layers} layers, and clips have "
                f"{LAYERS}; predict them with a model of {LAYERS} queries."
            )
    return data_of(training, validation)


def matched_masks(
    part: Mapping[str, Array],
) -> tuple[Bool[Array, "b t h w k"], Bool[Array, "b t h w k"]]:
    """Visible parts of the predicted masks of every object, and the truth.

    The predicted layers are matched to the true ones by the mean IoU over time.
    """
    truth = part["modal"].astype(bool)
    visible = layering.hard_modal(part["predicted"] > 127, part["predicted_order"])
    iou = matching.pairwise_iou(visible, truth)
    return matching.take_layers(visible, matching.match_layers(-iou.mean(axis=1))), truth


def corrupted(
    keys: Key[Array, "b"],
    masks: Bool[Array, "b t h w k"],
    truth: Bool[Array, "b t h w k"],
    settings: Corruption,
) -> Bool[Array, "b t h w k"]:
    """Corrupts the masks of each clip; see `corrupt_masks`."""
    return jax.vmap(lambda key, m, g: corrupt_masks(key, m, g, settings))(keys, masks, truth)


def validation_keys(truth: Bool[Array, "b t h w k"]) -> Key[Array, "b"]:
    """Random keys that depend on the true masks alone, so that every evaluation is the same."""
    areas = truth.sum(axis=(1, 2, 3, 4)).astype(jnp.uint32)
    return jax.vmap(lambda area: jax.random.fold_in(jax.random.key(0), area))(areas)


def encode_clips(
    config: Any, dino: DINOConfig | None, variables: Any, part: Mapping[str, Array]
) -> tuple[Float[Array, "b t h w 3"], Float[Array, "b t _h _w c"]]:
    """Normalised images of clips and the backbone's features; arguments as `encode_images`."""
    images = normalize_images(part["rgb"].astype(jnp.float32) / 255)
    frozen = None if dino is None else FrozenBackbone(dino, variables.frozen)
    flat = images.reshape(-1, *images.shape[2:])
    features = encode_images(config, variables.params, frozen, flat)
    return images, features.reshape(*images.shape[:2], *features.shape[1:])


def object_iou(
    masks: Bool[Array, "b t h w k"], truth: Bool[Array, "b t h w k"]
) -> tuple[Float[Array, "b t k"], Bool[Array, "b t k"]]:
    """IoU of every object in every frame, 0 where it is not visible, and whether it is visible."""
    both = (masks & truth).sum(axis=(2, 3))
    either = (masks | truth).sum(axis=(2, 3))
    return both / jnp.maximum(either, 1), truth.any(axis=(2, 3))


def j_sums(name: str, masks: Bool[Array, "b t h w k"], truth: Bool[Array, "b t h w k"]) -> Metrics:
    """Sum and count over frames with any object, of the mean J of the visible objects."""
    iou, there = object_iou(masks, truth)
    per_frame = (iou * there).sum(axis=-1) / jnp.maximum(there.sum(axis=-1), 1)
    return {
        f"{name}_sum": per_frame.sum(),
        f"{name}_count": there.any(axis=-1).sum().astype(jnp.float32),
    }

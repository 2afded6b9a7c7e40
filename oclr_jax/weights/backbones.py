"""Loads the frozen backbones of the mask selector and corrector by name."""

from typing import Any

from oclr_jax.errors import UserError
from oclr_jax.models.backbones import FROZEN, OWN, FrozenBackbone
from oclr_jax.weights.file import load_weights


def load_backbone(config: Any) -> FrozenBackbone | None:
    """The frozen backbone of a selector or corrector of this configuration; None for `own`.

    Raises:
      UserError: its weights are missing, or have another number of channels than the model needs.
    """
    if config.backbone == OWN:
        return None
    variables, info = load_weights(FROZEN[config.backbone], "dino")
    if info.model.width != config.feature_channels:
        raise UserError(
            f"The backbone {config.backbone} has {info.model.width} channels, and the model needs "
            f"{config.feature_channels}; choose another backbone or feature_channels."
        )
    return FrozenBackbone(info.model, variables)

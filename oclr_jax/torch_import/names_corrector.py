"""The released mask corrector: its PyTorch names, and the configuration that its shapes imply."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.corrector import CorrectorConfig, parameter_shapes
from oclr_jax.torch_import.names_oclr import packed_attention_entries
from oclr_jax.torch_import.names_selector import (
    count_layers,
    rgb_mask_encoder_entries,
    size,
    unet_decoder_entries,
)
from oclr_jax.torch_import.strict import Entry, import_state, linear, some_names, with_bias

LEVELS = 4  # of the released U-Net, including the bottleneck
ENCODER = "rgbmaskenc.encoder_rgbmask"
TRANSFORMER = "rgbglobalcorrector.transdec"
LAYERS = f"{TRANSFORMER}.transformer_decoder.layers."
# Part of the release, but its output is never used.
BOTTLENECK = f"{ENCODER}.bottleneck.conv_block.bottleneckconv"

_LINEAR = {
    "rgbmaskenc.encoder_posi.proj": "exemplar_position/linear",
    "rgbmaskenc.encoder_queryinfo.proj": "object_identity/linear",
    f"{TRANSFORMER}.encoder_querytime.proj": "query_position/linear",
    f"{TRANSFORMER}.encoder_positime.proj": "position/linear",
    f"{TRANSFORMER}.heatmap.mlp.0": "map_linear",
    "rgbglobalcorrector.encoder_posi.proj": "broadcast_position/linear",
    "rgbglobalcorrector.mlp.0": "reconstruction",
    "rgbglobalcorrector.mlp_feat": "features",
    "rgbglobalcorrector.mlp_mask1.0": "alpha1",
    "rgbglobalcorrector.mlp_mask2": "alpha2",
    "rgbmaskdec.mlp_mix": "mix",
}
_ATTENTIONS = {
    "self_attn": "self_attention",
    "multihead_attn": "target_attention",
    "multihead_attn2": "exemplar_attention",
}
_FEED_FORWARD = {
    "linear1": "target_feed/linear1",
    "linear2": "target_feed/linear2",
    "linear2_1": "exemplar_feed/linear1",
    "linear2_2": "exemplar_feed/linear2",
}


def corrector_entries(config: CorrectorConfig) -> dict[str, Entry]:
    """The destination of every array of a release that the model uses, by PyTorch name."""
    levels = len(config.channels) - 1
    entries = rgb_mask_encoder_entries(ENCODER, levels)
    entries |= unet_decoder_entries("rgbmaskdec.decoder_m", levels)
    for theirs, ours in _LINEAR.items():
        entries |= with_bias(theirs, ours, linear)
    entries[f"{TRANSFORMER}.slots_embedding.weight"] = Entry(("background",))
    for i in range(config.layers):
        torch, flax = f"{LAYERS}{i}", f"layer{i + 1}"
        for theirs, ours in _ATTENTIONS.items():
            entries |= packed_attention_entries(f"{torch}.{theirs}", f"{flax}/{ours}")
        for theirs, ours in _FEED_FORWARD.items():
            entries |= with_bias(f"{torch}.{theirs}", f"{flax}/{ours}", linear)
        for j in range(1, 6):
            for name in ("weight", "bias"):
                entries[f"{torch}.norm{j}.{name}"] = Entry((f"{flax}/norm{j}/{name}",))
    return entries


def dead_shapes(config: CorrectorConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released arrays that no output depends on."""
    narrow, wide = config.channels[-2:]
    return {
        f"{BOTTLENECK}1.weight": (wide, narrow, 3, 3),
        f"{BOTTLENECK}2.weight": (wide, wide, 3, 3),
    }


def is_corrector(names: Collection[str]) -> bool:
    """Whether any of these is a name of the corrector's checkpoint."""
    parts = ("rgbmaskenc.", "rgbglobalcorrector.", "rgbmaskdec.")
    return any(name.startswith(parts) for name in names)


def import_corrector(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], CorrectorConfig]:
    """Converts the arrays of a released checkpoint to parameters.

    The convolutions of the released bottleneck, which no output depends on, must be in the file and
    are left out.

    Args:
      state: arrays by PyTorch name, without the prefix `module.`.

    Returns:
      nested dict of float32 parameters, and the configuration that the shapes imply. Frames and the
      backbone do not show in any shape; they are those of the release.

    Raises:
      UserError: as `strict.import_state`, and where the shapes are those of no corrector.
    """
    shapes = {name: array.shape for name, array in state.items()}
    if not is_corrector(shapes):
        raise UserError(f"not a corrector's checkpoint: it holds {some_names(shapes)}.")
    try:
        config = infer_config(shapes)
    except ValueError as error:
        message = f"not a corrector's checkpoint that this program knows: {error}."
        raise UserError(message) from error
    entries, expected = corrector_entries(config), parameter_shapes(config)
    dead = dead_shapes(config)
    params = import_state(state, entries, expected, "a corrector", dead=dead)
    return params, config


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> CorrectorConfig:
    """The configuration that the shapes imply; the released one's where an array is missing.

    Raises:
      ValueError: no model has these shapes.
    """
    default = CorrectorConfig()
    first = ENCODER + ".encoder{0}.conv_block.enc{0}conv1.weight"
    channels = [size(shapes, first.format(i), 0, default.channels[i - 1]) for i in range(1, LEVELS)]
    channels.append(size(shapes, "rgbmaskdec.mlp_mix.weight", 0, default.channels[-1]))
    slots = f"{TRANSFORMER}.slots_embedding.weight"
    return CorrectorConfig(
        objects=size(shapes, "rgbmaskdec.decoder_m.conv.weight", 0, default.objects),
        backgrounds=size(shapes, slots, 0, default.backgrounds),
        channels=tuple(channels),
        layers=count_layers(shapes, LAYERS),
        heads=size(shapes, f"{TRANSFORMER}.heatmap.mlp.0.weight", 1, default.heads),
        feedforward=size(shapes, f"{LAYERS}0.linear1.weight", 0, default.feedforward),
        feature_channels=size(shapes, slots, 1, default.feature_channels),
    )

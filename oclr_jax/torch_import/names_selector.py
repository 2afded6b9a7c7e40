"""The released mask selector: its PyTorch names, and the configuration that its shapes imply."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.selector import SelectorConfig, parameter_shapes
from oclr_jax.torch_import.names_oclr import layer_entries
from oclr_jax.torch_import.strict import (
    Entry,
    convolution,
    import_state,
    linear,
    pixel_linear,
    some_names,
    transposed_convolution,
    with_bias,
)

LEVELS = 5  # of the released U-Net, including the bottleneck
LAYERS = "selector.transformer_enc.transformer_encoder.layers."


def rgb_mask_encoder_entries(torch: str, levels: int) -> dict[str, Entry]:
    """Entries of the encoder of frames and masks, without its bottleneck."""
    blocks = {"encoder1_rgb.conv_block.enc1_r": "rgb", "encoder1_mask.conv_block.enc1_m": "mask"}
    for i in range(1, levels + 1):
        blocks[f"encoder{i}.conv_block.enc{i}"] = f"block{i}"
    return {
        f"{torch}.{theirs}conv{j}.weight": convolution(f"encoder/{ours}/conv{j}/kernel")
        for theirs, ours in blocks.items()
        for j in (1, 2)
    }


def unet_decoder_entries(torch: str, levels: int) -> dict[str, Entry]:
    """Entries of the U-Net decoder."""
    entries = {}
    for i in range(1, levels + 1):
        entries[f"{torch}.upconv{i}.weight"] = transposed_convolution(f"decoder/upsample{i}/kernel")
        entries[f"{torch}.upconv{i}.bias"] = Entry((f"decoder/upsample{i}/bias",))
        for j in (1, 2):
            name = f"{torch}.decoder{i}.conv_block.dec{i}conv{j}.weight"
            entries[name] = convolution(f"decoder/block{i}/conv{j}/kernel")
    return entries | with_bias(f"{torch}.conv", "decoder/logits", pixel_linear)


def selector_entries(config: SelectorConfig) -> dict[str, Entry]:
    """The destination of every array of a release with this configuration, by PyTorch name."""
    levels = len(config.channels)
    entries = rgb_mask_encoder_entries("selector.encoder", levels - 1)
    for j in (1, 2):
        name = f"selector.encoder.bottleneck.conv_block.bottleneckconv{j}.weight"
        entries[name] = convolution(f"encoder/block{levels}/conv{j}/kernel")
    entries |= with_bias("selector.mlp", "projection", linear)
    entries |= with_bias("selector.transformer_enc.encoder_positime.proj", "position", linear)
    for i in range(config.layers):
        attention = {"self_attn": "self_attention"}
        entries |= layer_entries(f"{LAYERS}{i}", f"encoder{i + 1}", attention, 2)
    return entries | unet_decoder_entries("selector.decoder", levels - 1)


def is_selector(names: Collection[str]) -> bool:
    """Whether any of these is a name of the selector's checkpoint."""
    return any(name.startswith("selector.") for name in names)


def import_selector(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], SelectorConfig]:
    """Converts the arrays of a released checkpoint to parameters.

    Args:
      state: arrays by PyTorch name, without the prefix `module.`.

    Returns:
      nested dict of float32 parameters, and the configuration that the shapes imply. Frames, heads
      and the backbone do not show in any shape; they are those of the release.

    Raises:
      UserError: as `strict.import_state`, and where the shapes are those of no selector.
    """
    shapes = {name: array.shape for name, array in state.items()}
    if not is_selector(shapes):
        raise UserError(f"not a selector's checkpoint: it holds {some_names(shapes)}.")
    try:
        config = infer_config(shapes)
    except ValueError as error:
        raise UserError(f"not a selector's checkpoint that this program knows: {error}.") from error
    entries = selector_entries(config)
    return import_state(state, entries, parameter_shapes(config), "a selector"), config


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> SelectorConfig:
    """The configuration that the shapes imply; the released one's where an array is missing.

    Raises:
      ValueError: no model has these shapes.
    """
    default = SelectorConfig()
    first = "selector.encoder.encoder{0}.conv_block.enc{0}conv1.weight"
    channels = [size(shapes, first.format(i), 0, default.channels[i - 1]) for i in range(1, LEVELS)]
    bottleneck = "selector.encoder.bottleneck.conv_block.bottleneckconv1.weight"
    channels.append(size(shapes, bottleneck, 0, default.channels[-1]))
    joined = size(shapes, "selector.mlp.weight", 1, channels[-1] + default.feature_channels)
    return SelectorConfig(
        channels=tuple(channels),
        layers=count_layers(shapes, LAYERS),
        feedforward=size(shapes, f"{LAYERS}0.linear1.weight", 0, default.feedforward),
        feature_channels=joined - channels[-1],
    )


def size(shapes: Mapping[str, tuple[int, ...]], name: str, axis: int, otherwise: int) -> int:
    """A dimension of an array, or `otherwise` where there is none."""
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) else otherwise


def count_layers(names: Collection[str], prefix: str) -> int:
    """The number of transformer layers whose names begin with `prefix` and their index."""
    return len({name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix)})

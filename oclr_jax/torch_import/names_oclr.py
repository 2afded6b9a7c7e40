"""The released OCLR checkpoint: its PyTorch names, and the configuration that its shapes imply."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLRConfig, parameter_shapes
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
ATTENTION_PARTS = ("query", "key", "value")  # their order in the packed projection


def packed_attention_entries(torch: str, flax: str) -> dict[str, Entry]:
    """Entries of multi-head attention with packed projections of query, key and value."""
    parts = [f"{flax}/{part}" for part in ATTENTION_PARTS]
    packed = {
        f"{torch}.in_proj_weight": linear(*(f"{p}/kernel" for p in parts)),
        f"{torch}.in_proj_bias": Entry(tuple(f"{p}/bias" for p in parts)),
    }
    return packed | with_bias(f"{torch}.out_proj", f"{flax}/output", linear)


def layer_entries(
    torch: str, flax: str, attentions: Mapping[str, str], norms: int
) -> dict[str, Entry]:
    """Entries of one transformer layer; `attentions` maps PyTorch names to ours."""
    entries = {}
    for theirs, ours in attentions.items():
        entries |= packed_attention_entries(f"{torch}.{theirs}", f"{flax}/{ours}")
    for name in ("linear1", "linear2"):
        entries |= with_bias(f"{torch}.{name}", f"{flax}/feed_forward/{name}", linear)
    for i in range(1, norms + 1):
        for name in ("weight", "bias"):
            entries[f"{torch}.norm{i}.{name}"] = Entry((f"{flax}/norm{i}/{name}",))
    return entries


def oclr_entries(config: OCLRConfig) -> dict[str, Entry]:
    """The destination of every array of a release with this configuration, by PyTorch name."""
    entries = {}
    levels = len(config.channels)
    for i in range(1, levels + 1):
        level = (
            f"encoder{i}.conv_block.enc{i}" if i < levels else "bottleneck.conv_block.bottleneck"
        )
        for j in (1, 2):
            flax = f"block{i}/conv{j}/kernel"
            entries[f"encoder.{level}conv{j}.weight"] = convolution(f"unet_encoder/{flax}")
            if i < levels:
                torch = f"decoder_am.decoder{i}.conv_block.dec{i}conv{j}.weight"
                entries[torch] = convolution(f"unet_decoder/{flax}")
    for i in range(1, levels):
        torch, flax = f"decoder_am.upconv{i}", f"unet_decoder/upsample{i}"
        entries[f"{torch}.weight"] = transposed_convolution(f"{flax}/kernel")
        entries[f"{torch}.bias"] = Entry((f"{flax}/bias",))
    entries["decoder_am.conv.weight"] = pixel_linear("unet_decoder/logits/kernel")
    entries["decoder_am.conv.bias"] = Entry(("unet_decoder/logits/bias",))

    for i in range(config.encoder_layers):
        torch = f"transformer_enc.transformer_encoder.layers.{i}"
        entries |= layer_entries(torch, f"encoder{i + 1}", {"self_attn": "self_attention"}, 2)
    for i in range(config.decoder_layers):
        torch = f"transformer_dec.transformer_decoder.layers.{i}"
        attentions = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}
        entries |= layer_entries(torch, f"decoder{i + 1}", attentions, 3)
    entries["transformer_dec.motion_embed.weight"] = Entry(("query",))
    entries |= with_bias("transformer_enc.encoder_positime.proj", "position/linear", linear)
    entries |= with_bias("transformer_dec.encoder_time.proj", "query_time/linear", linear)
    entries |= with_bias("heatmap.mlp.0", "map_linear", linear)
    entries |= with_bias("classhead.mlp.0", "order1", linear)
    entries |= with_bias("classhead.mlp.2", "order2", linear)
    return entries


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> OCLRConfig:
    """The model configuration that the shapes of released arrays imply.

    Where an array that determines a dimension is missing, the released model's dimension is taken,
    so that the comparison that follows can list what is missing. The number of frames and the grid
    do not show in any shape.

    Raises:
      ValueError: no model has these shapes.
    """
    default = OCLRConfig()

    def size(name: str, axis: int, otherwise: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if axis < len(shape) else otherwise

    def layers(prefix: str) -> int:
        return len(
            {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
        )

    first = "encoder.encoder{0}.conv_block.enc{0}conv1.weight"
    channels = [size(first.format(i), 0, default.channels[i - 1]) for i in range(1, LEVELS)]
    bottleneck = "encoder.bottleneck.conv_block.bottleneckconv1.weight"
    channels.append(size(bottleneck, 0, default.channels[-1]))
    encoder = "transformer_enc.transformer_encoder.layers."
    queries = size("transformer_dec.motion_embed.weight", 0, default.queries)
    maps = size("heatmap.mlp.0.weight", 1, default.heads * queries)
    if size(first.format(1), 1, 4) != 2 * len(default.gaps):
        raise ValueError(f"its input is not flow at the gaps {default.gaps}")
    if not queries or maps % queries:
        raise ValueError(f"{maps} attention maps are no multiple of {queries} queries")
    return OCLRConfig(
        queries=queries,
        channels=tuple(channels),
        encoder_layers=layers(encoder),
        decoder_layers=layers("transformer_dec.transformer_decoder.layers."),
        heads=maps // queries,
        feedforward=size(f"{encoder}0.linear1.weight", 0, default.feedforward),
    )


def is_oclr(names: Collection[str]) -> bool:
    """Whether any of these is a name of the OCLR checkpoint."""
    return not oclr_entries(OCLRConfig()).keys().isdisjoint(names)


def import_oclr(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], OCLRConfig]:
    """Converts the arrays of a released checkpoint to parameters.

    Args:
      state: arrays by PyTorch name, without the prefix `module.`.

    Returns:
      nested dict of float32 parameters, and the configuration that the shapes imply.

    Raises:
      UserError: as `strict.import_state`, and where the shapes are those of no OCLR model.
    """
    shapes = {name: array.shape for name, array in state.items()}
    if not is_oclr(shapes):
        raise UserError(f"not an OCLR checkpoint: it holds {some_names(shapes)}.")
    try:
        config = infer_config(shapes)
    except ValueError as error:
        raise UserError(f"not an OCLR checkpoint that this program knows: {error}.") from error
    shapes = parameter_shapes(config)
    return import_state(state, oclr_entries(config), shapes, "an OCLR"), config

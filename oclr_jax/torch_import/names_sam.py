"""The released checkpoints of Segment Anything and HQ-SAM: their PyTorch names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from oclr_jax.models.sam import MODELS, SAMConfig, parameter_shapes
from oclr_jax.models.sam.decoder import LAYERS, MASKS
from oclr_jax.torch_import.strict import (
    Entry,
    convolution,
    import_state,
    linear,
    pixel_linear,
    transposed_convolution,
    with_bias,
)

PARTS = ("image_encoder.", "prompt_encoder.", "mask_decoder.")
# The array that only HQ-SAM has.
HQ_TOKEN = "mask_decoder.hf_token.weight"
# Of an attention layer of the decoder.
PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
# Heads of the decoder, which no shape tells.
DECODER_HEADS = SAMConfig.decoder_heads


def sam_entries(config: SAMConfig) -> dict[str, Entry]:
    """The destination of every array of a release, by PyTorch name."""
    return _encoder(config) | _prompts() | _decoder() | (_hq() if config.hq else {})


def _encoder(config: SAMConfig) -> dict[str, Entry]:
    torch, flax = "image_encoder", "params/encoder"
    entries = {f"{torch}.pos_embed": Entry((f"{flax}/positions",))}
    entries |= with_bias(f"{torch}.patch_embed.proj", f"{flax}/patches", convolution)
    for index in range(config.depth):
        theirs, ours = f"{torch}.blocks.{index}", f"{flax}/blocks_{index}"
        for norm in ("norm1", "norm2"):
            entries |= _norm(f"{theirs}.{norm}", f"{ours}/{norm}")
        entries |= with_bias(f"{theirs}.attn.qkv", f"{ours}/attention/qkv", linear)
        entries |= with_bias(f"{theirs}.attn.proj", f"{ours}/attention/projection", linear)
        entries[f"{theirs}.attn.rel_pos_h"] = Entry((f"{ours}/attention/rows",))
        entries[f"{theirs}.attn.rel_pos_w"] = Entry((f"{ours}/attention/columns",))
        entries |= with_bias(f"{theirs}.mlp.lin1", f"{ours}/hidden", linear)
        entries |= with_bias(f"{theirs}.mlp.lin2", f"{ours}/output", linear)
    for index, name in ((0, "1"), (2, "2")):
        entries[f"{torch}.neck.{index}.weight"] = convolution(f"{flax}/neck{name}/kernel")
        entries |= _norm(f"{torch}.neck.{index + 1}", f"{flax}/neck_norm{name}")
    return entries


def _prompts() -> dict[str, Entry]:
    torch, flax = "prompt_encoder", "params/prompts"
    kinds = ("background", "foreground", "first_corner", "last_corner")
    names = {
        "pe_layer.positional_encoding_gaussian_matrix": "frequencies",
        "not_a_point_embed.weight": "no_point",
        "no_mask_embed.weight": "no_mask",
    } | {f"point_embeddings.{index}.weight": kind for index, kind in enumerate(kinds)}
    entries = {f"{torch}.{name}": Entry((f"{flax}/{ours}",)) for name, ours in names.items()}
    mask = f"{torch}.mask_downscaling"
    entries |= with_bias(f"{mask}.0", f"{flax}/mask1", convolution)
    entries |= _norm(f"{mask}.1", f"{flax}/mask_norm1")
    entries |= with_bias(f"{mask}.3", f"{flax}/mask2", convolution)
    entries |= _norm(f"{mask}.4", f"{flax}/mask_norm2")
    return entries | with_bias(f"{mask}.6", f"{flax}/mask3", pixel_linear)


def _decoder() -> dict[str, Entry]:
    torch, flax = "mask_decoder", "params/decoder"
    entries = {
        f"{torch}.iou_token.weight": Entry((f"{flax}/quality_token",)),
        f"{torch}.mask_tokens.weight": Entry((f"{flax}/mask_tokens",)),
    }
    attentions = {"final_attn_token_to_image": "final_to_image"}
    norms = {"norm_final_attn": "final_norm"}
    for index in range(LAYERS):
        theirs, ours = f"layers.{index}.", f"layer{index}_"
        attentions[f"{theirs}self_attn"] = f"{ours}self"
        attentions[f"{theirs}cross_attn_token_to_image"] = f"{ours}to_image"
        attentions[f"{theirs}cross_attn_image_to_token"] = f"{ours}to_tokens"
        norms |= {f"{theirs}norm{number}": f"{ours}norm{number}" for number in range(1, 5)}
        for name, layer in (("lin1", "hidden"), ("lin2", "output")):
            place = f"{flax}/transformer/{ours}{layer}"
            entries |= with_bias(f"{torch}.transformer.{theirs}mlp.{name}", place, linear)
    for theirs, ours in attentions.items():
        for name, layer in PROJECTIONS.items():
            place = f"{flax}/transformer/{ours}/{layer}"
            entries |= with_bias(f"{torch}.transformer.{theirs}.{name}", place, linear)
    for theirs, ours in norms.items():
        entries |= _norm(f"{torch}.transformer.{theirs}", f"{flax}/transformer/{ours}")
    entries |= _upscale(f"{torch}.output_upscaling", f"{flax}/upscale")
    for index in range(MASKS):
        theirs = f"{torch}.output_hypernetworks_mlps.{index}"
        entries |= _mlp(theirs, f"{flax}/mask{index}_")
    return entries | _mlp(f"{torch}.iou_prediction_head", f"{flax}/quality")


def _hq() -> dict[str, Entry]:
    torch, flax = "mask_decoder", "params/decoder"
    entries = {HQ_TOKEN: Entry((f"{flax}/hq_token",))} | _mlp(f"{torch}.hf_mlp", f"{flax}/hq_mask_")
    entries |= _upscale(f"{torch}.compress_vit_feat", f"{flax}/hq_early")
    entries |= _upscale(f"{torch}.embedding_encoder", f"{flax}/hq_embedding")
    entries |= with_bias(f"{torch}.embedding_maskfeature.0", f"{flax}/hq_fine1", convolution)
    entries |= _norm(f"{torch}.embedding_maskfeature.1", f"{flax}/hq_fine_norm")
    return entries | with_bias(f"{torch}.embedding_maskfeature.3", f"{flax}/hq_fine2", convolution)


def _norm(torch: str, flax: str) -> dict[str, Entry]:
    names = {"weight": "scale", "bias": "bias"}
    return {f"{torch}.{name}": Entry((f"{flax}/{ours}",)) for name, ours in names.items()}


def _upscale(torch: str, flax: str) -> dict[str, Entry]:
    entries = with_bias(f"{torch}.0", f"{flax}1", transposed_convolution)
    entries |= _norm(f"{torch}.1", f"{flax}_norm")
    return entries | with_bias(f"{torch}.3", f"{flax}2", transposed_convolution)


def _mlp(torch: str, flax: str) -> dict[str, Entry]:
    entries = {}
    for index in range(3):
        entries |= with_bias(f"{torch}.layers.{index}", f"{flax}{index}", linear)
    return entries


def is_sam(names: Collection[str]) -> bool:
    """Whether any of these is a name of a checkpoint of SAM or HQ-SAM."""
    return any(name.startswith(PARTS) for name in names)


def import_sam(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], SAMConfig]:
    """Converts the arrays of a released checkpoint to variables.

    Args:
      state: arrays by PyTorch name, as released: without prefix.

    Returns:
      "params", nested dicts of float32; and the model they fit.

    Raises:
      UserError: as `strict.import_state`.
    """
    config = _config(state)
    entries = sam_entries(config)
    return import_state(state, entries, parameter_shapes(config), "a SAM"), config


def _config(state: Mapping[str, np.ndarray]) -> SAMConfig:
    """The model that the arrays fit; where they fit none, the release of the same depth.

    The import then lists what differs.
    """
    blocks = [re.match(r"image_encoder\.blocks\.(\d{1,2})\.", name) for name in state]
    depth = max((int(match[1]) for match in blocks if match), default=0) + 1
    releases = {config.depth: config for config in MODELS.values()}
    release = replace(releases.get(depth, SAMConfig()), hq=HQ_TOKEN in state)
    shapes = {name: array.shape for name, array in state.items()}
    try:
        width, _, _, patch = shapes["image_encoder.patch_embed.proj.weight"]
        grid = shapes["image_encoder.pos_embed"][1]
        tables = [shapes[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(depth)]
        windows = {(rows + 1) // 2 for rows, _ in tables} - {grid}
        return SAMConfig(
            width=width,
            depth=depth,
            heads=width // tables[0][1],
            global_blocks=tuple(i for i in range(depth) if tables[i][0] == 2 * grid - 1),
            side=grid * patch,
            patch=patch,
            window=windows.pop() if windows else grid,
            channels=shapes["image_encoder.neck.0.weight"][0],
            decoder_heads=DECODER_HEADS,
            decoder_hidden=shapes["mask_decoder.transformer.layers.0.mlp.lin1.weight"][0],
            quality_hidden=shapes["mask_decoder.iou_prediction_head.layers.0.weight"][0],
            mask_channels=shapes["prompt_encoder.mask_downscaling.3.weight"][0],
            hq=release.hq,
        )
    except (LookupError, ValueError, ArithmeticError):
        return release

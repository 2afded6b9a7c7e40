"""The released DINO, DINOv2 and MAE checkpoints: their PyTorch names."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from oclr_jax.models.dino import DINOConfig, parameter_shapes
from oclr_jax.torch_import.strict import Entry, convolution, import_state, linear, with_bias

# Before every name of the transformer: in a bare file, in the teacher of a training checkpoint, and
# in a whole training checkpoint.
PREFIXES = ("", "backbone.", "teacher.backbone.")
HEAD_CHANNELS = 64  # of an attention head, in every released model
# Sides of a patch in the released models, and of the images of their position embedding.
TRAINED_SIDES = {8: 224, 14: 518, 16: 224}
# Of DINOv2's training: the token of masked patches, which no image has.
UNUSED = "mask_token"
AFFINE = {"weight": "scale", "bias": "bias"}
LAYERS = {"attn.qkv": "qkv", "attn.proj": "projection", "mlp.fc1": "hidden", "mlp.fc2": "output"}


def dino_entries(config: DINOConfig) -> dict[str, Entry]:
    """The destination of every array of a release, by PyTorch name without prefix."""
    entries = {
        "cls_token": Entry(("params/class_token",)),
        "pos_embed": Entry(("params/positions",)),
    }
    if config.registers:
        entries["register_tokens"] = Entry(("params/registers",))
    entries |= with_bias("patch_embed.proj", "params/patches", convolution)
    for index in range(config.depth):
        torch, flax = f"blocks.{index}", f"params/blocks_{index}"
        for norm in ("norm1", "norm2"):
            entries |= _layer_norm(f"{torch}.{norm}", f"{flax}/{norm}")
        if config.layer_scale:
            entries[f"{torch}.ls1.gamma"] = Entry((f"{flax}/attention_scale",))
            entries[f"{torch}.ls2.gamma"] = Entry((f"{flax}/output_scale",))
        for theirs, ours in LAYERS.items():
            entries |= with_bias(f"{torch}.{theirs}", f"{flax}/{ours}", linear)
    return entries | _layer_norm("norm", "params/norm")


def _layer_norm(torch: str, flax: str) -> dict[str, Entry]:
    return {f"{torch}.{name}": Entry((f"{flax}/{ours}",)) for name, ours in AFFINE.items()}


def is_dino(names: Collection[str]) -> bool:
    """Whether any of these is a name of a DINO checkpoint."""
    parts = ("cls_token", "pos_embed", "patch_embed.", "blocks.")
    starts = tuple(prefix + part for prefix in PREFIXES for part in parts)
    return any(name.startswith(starts) for name in names)


def import_dino(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], DINOConfig]:
    """Converts the arrays of a released checkpoint to variables.

    Args:
      state: arrays by PyTorch name; bare, or with one of `PREFIXES` before the names of the
        transformer. With a prefix, arrays outside it (the projection head of the training, the
        student) are left out, and so is DINOv2's token of masked patches.

    Returns:
      "params", nested dicts of float32; and the model they fit.

    Raises:
      UserError: as `strict.import_state`.
    """
    found = [prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in state)]
    prefix = max(found, key=len)
    inside = {name.removeprefix(prefix): a for name, a in state.items() if name.startswith(prefix)}
    config = _config(inside)
    if config.layer_scale:
        inside.pop(UNUSED, None)
    return import_state(inside, dino_entries(config), parameter_shapes(config), "a DINO"), config


def _config(state: Mapping[str, np.ndarray]) -> DINOConfig:
    """The model that the arrays fit; the sizes of ViT-S/8 where they fit none.

    The import then lists what differs.
    """
    blocks = [int(m[1]) for m in (re.match(r"blocks\.(\d{1,2})\.", name) for name in state) if m]
    depth = max(blocks, default=DINOConfig.depth - 1) + 1
    kernel = state.get("patch_embed.proj.weight")
    if kernel is None or kernel.ndim != 4:
        return DINOConfig(depth=depth)
    width, patch = kernel.shape[0], kernel.shape[-1]
    if width == 0 or width % HEAD_CHANNELS or patch not in TRAINED_SIDES:
        return DINOConfig(depth=depth)
    registers = state.get("register_tokens")
    return DINOConfig(
        patch=patch,
        width=width,
        depth=depth,
        heads=width // HEAD_CHANNELS,
        trained_side=TRAINED_SIDES[patch],
        layer_scale=any(name.endswith(".ls1.gamma") for name in state),
        registers=registers.shape[1] if registers is not None and registers.ndim == 3 else 0,
    )

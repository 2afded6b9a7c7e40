"""The released Motion Grouping: its PyTorch names, and the configuration its shapes imply."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.baselines.motion_grouping import (
    CHANNELS,
    MotionGroupingConfig,
    parameter_shapes,
)
from oclr_jax.torch_import.names_selector import size
from oclr_jax.torch_import.strict import (
    Entry,
    convolution,
    import_state,
    linear,
    some_names,
    with_bias,
)

# Indices of the convolutions in the released sequences of layers; a norm follows each.
ENCODER = (0, 3, 7, 10, 14, 17)
UPSAMPLES = (0, 3, 6)
DECODER, OUTPUT = 9, 12
SLOTS = "slot_attention.slots_embedding.weight"


def _upsample(path: str) -> Entry:
    """A transposed convolution `[in, out, h, w]` to `[h, w, in, out]`."""
    return Entry((path,), lambda a: a.transpose(2, 3, 0, 1), lambda s: (s[2], s[3], s[0], s[1]))


def _norm(torch: str, flax: str) -> dict[str, Entry]:
    return {f"{torch}.weight": Entry((f"{flax}/scale",)), f"{torch}.bias": Entry((f"{flax}/bias",))}


def motion_grouping_entries() -> dict[str, Entry]:
    """The destination of every array of a release, by PyTorch name."""
    entries = {SLOTS: Entry(("slot_attention/slots",))}
    for number, index in enumerate(ENCODER, start=1):
        torch, flax = f"encoder_cnn.{index}", f"encoder{number}"
        entries |= with_bias(torch, f"{flax}/conv", convolution)
        entries |= _norm(f"encoder_cnn.{index + 1}", f"{flax}/norm")
    for number, index in enumerate(UPSAMPLES, start=1):
        entries |= with_bias(f"decoder_cnn.{index}", f"decoder{number}", _upsample)
        entries |= _norm(f"decoder_cnn.{index + 1}", f"decoder{number}/norm")
    entries |= with_bias(f"decoder_cnn.{DECODER}", "decoder4/conv", convolution)
    entries |= _norm(f"decoder_cnn.{DECODER + 1}", "decoder4/norm")
    entries |= with_bias(f"decoder_cnn.{OUTPUT}", "output", convolution)
    for part in ("encoder", "decoder"):
        entries |= with_bias(f"{part}_pos.proj", f"{part}_position", linear)
    entries |= _norm("layer_norm", "norm")
    attention = "slot_attention"
    for torch, flax in (("norm_input",) * 2, ("norm_slots",) * 2, ("norm_pre_ff", "norm_mlp")):
        entries |= _norm(f"{attention}.{torch}", f"{attention}/{flax}")
    for torch, flax in (("q", "query"), ("k", "key"), ("v", "value")):
        entries |= with_bias(f"{attention}.project_{torch}", f"{attention}/{flax}", linear)
    for torch, flax in (("ih", "input"), ("hh", "hidden")):
        entries[f"{attention}.gru.weight_{torch}"] = linear(f"{attention}/gru/{flax}/kernel")
        entries[f"{attention}.gru.bias_{torch}"] = Entry((f"{attention}/gru/{flax}/bias",))
    for layer, number in ((0, 1), (2, 2)):
        entries |= with_bias(f"mlp.{layer}", f"mlp{number}", linear)
        entries |= with_bias(f"{attention}.mlp.{layer}", f"{attention}/mlp{number}", linear)
    return entries


def is_motion_grouping(names: Collection[str]) -> bool:
    """Whether any of these is a name of the Motion Grouping checkpoint."""
    return SLOTS in names or "encoder_cnn.0.weight" in names


def import_motion_grouping(
    state: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], MotionGroupingConfig]:
    """Converts the arrays of a released checkpoint to parameters.

    Args:
      state: arrays by PyTorch name, without the prefix `module.`.

    Returns:
      nested dict of float32 parameters, and the configuration that the shapes imply. Gaps and grid
      do not show in any shape; they are those of the release.

    Raises:
      UserError: as `strict.import_state`, and where the shapes are those of no such model.
    """
    shapes = {name: array.shape for name, array in state.items()}
    if not is_motion_grouping(shapes):
        raise UserError(f"not a checkpoint of Motion Grouping: it holds {some_names(shapes)}.")
    try:
        config = infer_config(shapes)
    except ValueError as error:
        raise UserError(
            f"not a checkpoint of Motion Grouping that this program knows: {error}."
        ) from error
    shapes = parameter_shapes(config)
    return import_state(state, motion_grouping_entries(), shapes, "a Motion Grouping"), config


def infer_config(shapes: Mapping[str, tuple[int, ...]]) -> MotionGroupingConfig:
    """The configuration that the shapes imply; the released one's where an array is missing.

    Raises:
      ValueError: no model has these shapes.
    """
    default = MotionGroupingConfig()
    channels = size(shapes, "encoder_cnn.0.weight", 1, CHANNELS[default.sees])
    sees = next((name for name, count in CHANNELS.items() if count == channels), None)
    if sees is None:
        raise ValueError(f"its input has {channels} channels")
    return MotionGroupingConfig(
        slots=size(shapes, SLOTS, 0, default.slots),
        sees=sees,
        channels=tuple(
            size(shapes, f"encoder_cnn.{index}.weight", 0, default.channels[level])
            for level, index in enumerate(ENCODER[::2])
        ),
        decoder_channels=size(shapes, "decoder_cnn.0.weight", 1, default.decoder_channels),
    )

"""Import of released OCLR checkpoints: PyTorch names and layouts to Flax parameters, strictly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLRConfig
from oclr_jax.torch_import.file import read_torch_file
from oclr_jax.torch_import.pickle import Tensor
from oclr_jax.weights.segmentation import WeightsInfo, expected_shapes, save_weights
from oclr_jax.weights.tree import describe_mismatch, unflatten

LEVELS = 5  # of the released U-Net, the bottleneck included
ATTENTION_PARTS = ("query", "key", "value")  # order of the packed projection


@dataclass(frozen=True)
class Entry:
    """One array of the released file and where it goes.

    paths: Flax paths (`a/b/c`); more than one where the released array is packed along its rows.
    to_flax: one part in PyTorch's layout to ours. to_torch: the shape back.
    """

    paths: tuple[str, ...]
    to_flax: Callable[[np.ndarray], np.ndarray] = lambda array: array
    to_torch: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda shape: shape

    def torch_shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Shape that the released array must have, from the Flax shapes."""
        rows, *rest = self.to_torch(shapes[self.paths[0]])
        return (rows * len(self.paths), *rest)


def linear(*paths: str) -> Entry:
    """`[out, in]` to `[in, out]`."""
    return Entry(paths, lambda a: a.T, lambda s: (s[1], s[0]))


def convolution(path: str) -> Entry:
    """`[out, in, h, w]` to `[h, w, in, out]`."""
    return Entry((path,), lambda a: a.transpose(2, 3, 1, 0), lambda s: (s[3], s[2], s[0], s[1]))


def transposed_convolution(path: str) -> Entry:
    """`[in, out, h, w]` to `[in, h, w, out]`."""
    return Entry((path,), lambda a: a.transpose(0, 2, 3, 1), lambda s: (s[0], s[3], s[1], s[2]))


def pixel_linear(path: str) -> Entry:
    """1x1 convolution `[out, in, 1, 1]` to `[in, out]`."""
    return Entry((path,), lambda a: a[:, :, 0, 0].T, lambda s: (s[1], s[0], 1, 1))


def _layer_entries(torch: str, flax: str, attentions: Mapping[str, str], norms: int):
    """Entries of one transformer layer; `attentions` maps PyTorch names to ours."""
    entries = {}
    for theirs, ours in attentions.items():
        parts = [f"{flax}/{ours}/{part}" for part in ATTENTION_PARTS]
        entries[f"{torch}.{theirs}.in_proj_weight"] = linear(*(f"{p}/kernel" for p in parts))
        entries[f"{torch}.{theirs}.in_proj_bias"] = Entry(tuple(f"{p}/bias" for p in parts))
        entries |= _linear_entries(f"{torch}.{theirs}.out_proj", f"{flax}/{ours}/output")
    for name in ("linear1", "linear2"):
        entries |= _linear_entries(f"{torch}.{name}", f"{flax}/feed_forward/{name}")
    for i in range(1, norms + 1):
        for name in ("weight", "bias"):
            entries[f"{torch}.norm{i}.{name}"] = Entry((f"{flax}/norm{i}/{name}",))
    return entries


def _linear_entries(torch: str, flax: str) -> dict[str, Entry]:
    return {f"{torch}.weight": linear(f"{flax}/kernel"), f"{torch}.bias": Entry((f"{flax}/bias",))}


def release_entries(config: OCLRConfig) -> dict[str, Entry]:
    """Every array of a released file with this configuration, by its PyTorch name."""
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
        entries |= _layer_entries(torch, f"encoder{i + 1}", {"self_attn": "self_attention"}, 2)
    for i in range(config.decoder_layers):
        torch = f"transformer_dec.transformer_decoder.layers.{i}"
        attentions = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}
        entries |= _layer_entries(torch, f"decoder{i + 1}", attentions, 3)
    entries["transformer_dec.motion_embed.weight"] = Entry(("query",))
    entries |= _linear_entries("transformer_enc.encoder_positime.proj", "position/linear")
    entries |= _linear_entries("transformer_dec.encoder_time.proj", "query_time/linear")
    entries |= _linear_entries("heatmap.mlp.0", "map_linear")
    entries |= _linear_entries("classhead.mlp.0", "order1")
    entries |= _linear_entries("classhead.mlp.2", "order2")
    return entries


def read_config(shapes: Mapping[str, tuple[int, ...]]) -> OCLRConfig:
    """The configuration that released arrays of these shapes have.

    Where an array that tells a dimension is missing, the dimension is the released model's, so that
    the comparison that follows can list what is missing. Frames and grid are in no shape.

    Raises:
      ValueError: where the shapes tell of no possible model.
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


def import_oclr(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], OCLRConfig]:
    """Arrays in the released program's names and layouts as Flax parameters, strictly.

    Args:
      state: arrays by PyTorch name, without `module.`.

    Returns:
      nested dict of float32 parameters, and the configuration that the shapes tell.

    Raises:
      UserError: lists every missing, extra and misshapen entry, and those that are not finite
        floating-point numbers.
    """
    shapes = {name: array.shape for name, array in state.items()}
    if not shapes.keys() & release_entries(OCLRConfig()).keys():
        raise UserError(f"not an OCLR checkpoint: it holds {_some(shapes)}.")
    try:
        config = read_config(shapes)
    except ValueError as error:
        raise UserError(f"not an OCLR checkpoint that this program knows: {error}.") from error
    entries = release_entries(config)
    flax_shapes = expected_shapes(config)
    expected = {name: entry.torch_shape(flax_shapes) for name, entry in entries.items()}
    mismatch = describe_mismatch(shapes, expected)
    if mismatch:
        raise UserError(f"not the entries of an OCLR model: {mismatch}.")
    # Not kind "f" alone: numpy does not count bfloat16 as its own.
    wrong = [name for name, array in state.items() if array.dtype.kind in "biu"]
    if wrong:
        raise UserError(f"not floating-point numbers: {', '.join(wrong)}.")
    params = to_flax({name: array.astype(np.float32) for name, array in state.items()}, entries)
    return params, config


def convert_release(in_pth: str | Path, out_safetensors: str | Path) -> WeightsInfo:
    """Converts a released PyTorch checkpoint to a self-describing float32 safetensors file.

    Accepts a bare state dict, one under `model_state_dict` (optimizer state beside it is left
    out), and names prefixed with `module.`. Nothing is written unless everything fits.

    Returns:
      the description that was written.

    Raises:
      UserError: for every file that is not an OCLR checkpoint, or that cannot be read or written.
    """
    arrays, iteration = read_state_dict(in_pth)
    try:
        params, config = import_oclr(arrays)
    except UserError as error:
        raise UserError(f"{in_pth} is refused: {error}") from error
    info = WeightsInfo(
        model=config,
        # The released model was trained on RAFT's flow; the estimator of this package stands in.
        flow={"estimator": "dis", "preset": "fine", "height": 256, "width": 448},
        data_version="released",
        name=Path(out_safetensors).stem,
        card={
            "converted_from": Path(in_pth).name,
            "steps": iteration,
            "trained_on": "the released program's synthetic data, RAFT flow",
        },
    )
    save_weights(out_safetensors, params, info, dtype="float32")
    return info


def read_state_dict(in_pth: str | Path) -> tuple[dict[str, np.ndarray], int | None]:
    """The named arrays of a checkpoint, and the iteration at which it was saved where it says so.

    Accepts a bare state dict and one under `model_state_dict`; a `module.` that all names share is
    taken off.

    Raises:
      UserError: for a file that cannot be read or holds no dict of named tensors.
    """
    contents = read_torch_file(in_pth)
    wrapped = type(contents) is dict and type(contents.get("model_state_dict")) is dict
    state = contents["model_state_dict"] if wrapped else contents
    if type(state) is not dict or not state or not all(type(v) is Tensor for v in state.values()):
        raise UserError(
            f"{in_pth} is refused: not a model's checkpoint, which is a dict of named tensors."
        )
    names = [str(name) for name in state]
    prefix = "module." if all(name.startswith("module.") for name in names) else ""
    arrays = {str(name).removeprefix(prefix): tensor.array() for name, tensor in state.items()}
    iteration = contents.get("iteration") if wrapped else None
    return arrays, iteration if type(iteration) is int else None


def _some(names: Mapping[str, Any], count: int = 3) -> str:
    shown = ", ".join(repr(name[:80]) for name in list(names)[:count])
    return f"{shown} and {len(names) - count} more entries" if len(names) > count else shown


def to_flax(state: Mapping[str, np.ndarray], entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Arrays in PyTorch's names and layouts as a nested dict of Flax parameters."""
    flat = {}
    for name, array in state.items():
        entry = entries[name]
        for path, part in zip(entry.paths, np.split(array, len(entry.paths)), strict=True):
            flat[path] = np.ascontiguousarray(entry.to_flax(part))
    return unflatten(flat)

"""Import of released RAFT checkpoints: PyTorch names and layouts to Flax variables, strictly."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.raft import RAFTConfig
from oclr_jax.torch_import.names_oclr import (
    Entry,
    convolution,
    pixel_linear,
    read_state_dict,
    to_flax,
)
from oclr_jax.weights.optical_flow import (
    FlowWeightsInfo,
    expected_flow_shapes,
    save_flow_weights,
)
from oclr_jax.weights.tree import describe_mismatch

STAGES = 3  # of an encoder, two blocks each
# Names of batch norm's arrays there, and ours.
STATISTICS = {"running_mean": "mean", "running_var": "var"}
AFFINE = {"weight": "scale", "bias": "bias"}
# The count of training batches, which nothing here needs.
UNUSED = "num_batches_tracked"


def raft_entries(config: RAFTConfig) -> dict[str, Entry]:
    """Every array of a released file that goes into the model, by its PyTorch name."""
    entries = _encoder_entries("fnet", "feature_encoder", config.small, norms=False)
    entries |= _encoder_entries("cnet", "context_encoder", config.small, norms=not config.small)
    torch, flax = "update_block", "params/update"
    motion = {"convf1": "flow1", "convf2": "flow2", "conv": "both"}
    motion |= {} if config.small else {"convc2": "windows2"}
    for theirs, ours in motion.items():
        entries |= _convolution(f"{torch}.encoder.{theirs}", f"{flax}/motion/{ours}")
    entries |= _linear(f"{torch}.encoder.convc1", f"{flax}/motion/windows1")
    gates = {"convz": "update", "convr": "reset", "convq": "candidate"}
    for index, suffix in enumerate([""] if config.small else ["1", "2"]):
        for theirs, ours in gates.items():
            name, path = f"{torch}.gru.{theirs}{suffix}", f"{flax}/grus_{index}/{ours}"
            entries[f"{name}.weight"] = convolution(f"{path}_kernel")
            entries[f"{name}.bias"] = Entry((f"{path}_bias",))
    for index in (1, 2):
        entries |= _convolution(f"{torch}.flow_head.conv{index}", f"{flax}/flow{index}")
    if not config.small:
        entries |= _convolution(f"{torch}.mask.0", "params/mask/mask1")
        entries |= _linear(f"{torch}.mask.2", "params/mask/mask2")
    return entries


def _encoder_entries(torch: str, flax: str, small: bool, norms: bool) -> dict[str, Entry]:
    entries = _convolution(f"{torch}.conv1", f"params/{flax}/conv1")
    entries |= _linear(f"{torch}.conv2", f"params/{flax}/output")
    if norms:
        entries |= _batch_norm(f"{torch}.norm1", f"{flax}/norm1")
    for stage in range(1, STAGES + 1):
        for block in (0, 1):
            theirs, ours = f"{torch}.layer{stage}.{block}", f"{flax}/stage{stage}_block{block}"
            for index in range(1, 4 if small else 3):
                pointwise = small and index != 2
                layer = _linear if pointwise else _convolution
                entries |= layer(f"{theirs}.conv{index}", f"params/{ours}/conv{index}")
                if norms:
                    entries |= _batch_norm(f"{theirs}.norm{index}", f"{ours}/norm{index}")
            if stage > 1 and block == 0:
                entries |= _linear(f"{theirs}.downsample.0", f"params/{ours}/shortcut")
                if norms:
                    entries |= _batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_norm")
    return entries


def _convolution(torch: str, flax: str) -> dict[str, Entry]:
    return {
        f"{torch}.weight": convolution(f"{flax}/kernel"),
        f"{torch}.bias": Entry((f"{flax}/bias",)),
    }


def _linear(torch: str, flax: str) -> dict[str, Entry]:
    return {
        f"{torch}.weight": pixel_linear(f"{flax}/kernel"),
        f"{torch}.bias": Entry((f"{flax}/bias",)),
    }


def _batch_norm(torch: str, flax: str) -> dict[str, Entry]:
    parts = {name: f"params/{flax}/batch/{ours}" for name, ours in AFFINE.items()}
    parts |= {name: f"batch_stats/{flax}/batch/{ours}" for name, ours in STATISTICS.items()}
    return {f"{torch}.{name}": Entry((path,)) for name, path in parts.items()}


def duplicates(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Names under which released files hold arrays a second time, and their first names.

    The norm of a shortcut is registered as `downsample.1` and as the block's next `norm`.
    """
    return {
        name.replace("downsample.1", "norm3"): name for name in entries if "downsample.1" in name
    }


def is_raft(names: Mapping[str, Any]) -> bool:
    """Whether these are the names of a RAFT checkpoint, complete or not."""
    return any(name.startswith(("fnet.", "cnet.", "update_block.")) for name in names)


def import_raft(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], RAFTConfig]:
    """Arrays in the released program's names and layouts as Flax variables, strictly.

    Args:
      state: arrays by name, without `module.`.

    Returns:
      "params" and, for RAFT, "batch_stats", nested dicts of float32; and the model they are for.

    Raises:
      UserError: lists every missing, extra and misshapen entry; those that are not floating-point
        numbers; and arrays that should be the same and are not.
    """
    # The small model's blocks alone have a third convolution.
    config = RAFTConfig(small="fnet.layer1.0.conv3.weight" in state)
    entries = raft_entries(config)
    flax_shapes = expected_flow_shapes(config)
    expected = {name: entry.torch_shape(flax_shapes) for name, entry in entries.items()}
    again = duplicates(entries)
    expected |= {name: expected[first] for name, first in again.items()}
    norms = {name.rpartition(".")[0] for name in expected if name.endswith("running_mean")}
    counters = {f"{norm}.{UNUSED}": () for norm in norms}
    shapes = {name: array.shape for name, array in state.items()}
    mismatch = describe_mismatch(shapes, expected | counters)
    if mismatch:
        raise UserError(f"not the entries of a RAFT model: {mismatch}.")
    state = {name: array for name, array in state.items() if name not in counters}
    # Not kind "f" alone: numpy does not count bfloat16 as its own.
    wrong = [name for name, array in state.items() if array.dtype.kind in "biu"]
    if wrong:
        raise UserError(f"not floating-point numbers: {', '.join(wrong)}.")
    for name, first in again.items():
        if not np.array_equal(state[name], state[first]):
            raise UserError(f"{name} and {first} are one array in RAFT and differ here.")
    kept = {name: state[name].astype(np.float32) for name in entries}
    return to_flax(kept, entries), config


def read_raft_release(in_pth: str | Path) -> tuple[dict[str, Any], FlowWeightsInfo]:
    """Variables of a released RAFT checkpoint, and their description; UserError for others."""
    state, _ = read_state_dict(in_pth)
    try:
        variables, config = import_raft(state)
    except UserError as error:
        raise UserError(f"{in_pth} is refused: {error}") from error
    name = Path(in_pth).stem
    return variables, FlowWeightsInfo(config, name, card={"converted_from": Path(in_pth).name})


def convert_raft_release(in_pth: str | Path, out_safetensors: str | Path) -> FlowWeightsInfo:
    """Converts a released RAFT checkpoint to a self-describing float32 safetensors file.

    Returns:
      the description that was written.

    Raises:
      UserError: for every file that is not a RAFT checkpoint, or that cannot be read or written.
    """
    variables, info = read_raft_release(in_pth)
    info = replace(info, name=Path(out_safetensors).stem)
    save_flow_weights(out_safetensors, variables, info, dtype="float32")
    return info

"""The released RAFT checkpoints: their PyTorch names."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from oclr_jax.models.raft import RAFTConfig, parameter_shapes
from oclr_jax.torch_import.strict import (
    Entry,
    convolution,
    import_state,
    pixel_linear,
    with_bias,
)

STAGES = 3  # of an encoder, two blocks each
# Names of the arrays of batch norm, in PyTorch and here.
STATISTICS = {"running_mean": "mean", "running_var": "var"}
AFFINE = {"weight": "scale", "bias": "bias"}
# The number of training batches, which is not needed.
UNUSED = "num_batches_tracked"


def raft_entries(config: RAFTConfig) -> dict[str, Entry]:
    """The destination of every array of a release that the model needs, by PyTorch name."""
    entries = _encoder_entries("fnet", "feature_encoder", config.small, norms=False)
    entries |= _encoder_entries("cnet", "context_encoder", config.small, norms=not config.small)
    torch, flax = "update_block", "params/update"
    motion = {"convf1": "flow1", "convf2": "flow2", "conv": "both"}
    motion |= {} if config.small else {"convc2": "windows2"}
    for theirs, ours in motion.items():
        entries |= with_bias(f"{torch}.encoder.{theirs}", f"{flax}/motion/{ours}", convolution)
    entries |= with_bias(f"{torch}.encoder.convc1", f"{flax}/motion/windows1", pixel_linear)
    gates = {"convz": "update", "convr": "reset", "convq": "candidate"}
    for index, suffix in enumerate([""] if config.small else ["1", "2"]):
        for theirs, ours in gates.items():
            name, path = f"{torch}.gru.{theirs}{suffix}", f"{flax}/grus_{index}/{ours}"
            entries[f"{name}.weight"] = convolution(f"{path}_kernel")
            entries[f"{name}.bias"] = Entry((f"{path}_bias",))
    for index in (1, 2):
        entries |= with_bias(f"{torch}.flow_head.conv{index}", f"{flax}/flow{index}", convolution)
    if not config.small:
        entries |= with_bias(f"{torch}.mask.0", "params/mask/mask1", convolution)
        entries |= with_bias(f"{torch}.mask.2", "params/mask/mask2", pixel_linear)
    return entries


def _encoder_entries(torch: str, flax: str, small: bool, norms: bool) -> dict[str, Entry]:
    entries = with_bias(f"{torch}.conv1", f"params/{flax}/conv1", convolution)
    entries |= with_bias(f"{torch}.conv2", f"params/{flax}/output", pixel_linear)
    if norms:
        entries |= _batch_norm(f"{torch}.norm1", f"{flax}/norm1")
    for stage in range(1, STAGES + 1):
        for block in (0, 1):
            theirs, ours = f"{torch}.layer{stage}.{block}", f"{flax}/stage{stage}_block{block}"
            for index in range(1, 4 if small else 3):
                pointwise = small and index != 2
                layer = pixel_linear if pointwise else convolution
                name, path = f"{theirs}.conv{index}", f"params/{ours}/conv{index}"
                entries |= with_bias(name, path, layer)
                if norms:
                    entries |= _batch_norm(f"{theirs}.norm{index}", f"{ours}/norm{index}")
            if stage > 1 and block == 0:
                entries |= with_bias(
                    f"{theirs}.downsample.0", f"params/{ours}/shortcut", pixel_linear
                )
                if norms:
                    entries |= _batch_norm(f"{theirs}.downsample.1", f"{ours}/shortcut_norm")
    return entries


def _batch_norm(torch: str, flax: str) -> dict[str, Entry]:
    parts = {name: f"params/{flax}/batch/{ours}" for name, ours in AFFINE.items()}
    parts |= {name: f"batch_stats/{flax}/batch/{ours}" for name, ours in STATISTICS.items()}
    return {f"{torch}.{name}": Entry((path,)) for name, path in parts.items()}


def duplicates(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Second names of arrays in the release, and their names in `entries`.

    The norm of a shortcut is registered as `downsample.1` and as the block's next `norm`.
    """
    return {
        name.replace("downsample.1", "norm3"): name for name in entries if "downsample.1" in name
    }


def is_raft(names: Collection[str]) -> bool:
    """Whether any of these is a name of a RAFT checkpoint."""
    return any(name.startswith(("fnet.", "cnet.", "update_block.")) for name in names)


def import_raft(state: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], RAFTConfig]:
    """Converts the arrays of a released checkpoint to variables.

    Args:
      state: arrays by PyTorch name, without the prefix `module.`.

    Returns:
      "params" and, for RAFT, "batch_stats", nested dicts of float32; and the model they fit.

    Raises:
      UserError: as `strict.import_state`.
    """
    # Only the small model's blocks have a third convolution.
    config = RAFTConfig(small="fnet.layer1.0.conv3.weight" in state)
    entries = raft_entries(config)
    again = duplicates(entries)
    names = [*entries, *again]
    norms = {name.rpartition(".")[0] for name in names if name.endswith("running_mean")}
    counters = {f"{norm}.{UNUSED}" for norm in norms}
    shapes = parameter_shapes(config)
    return import_state(state, entries, shapes, "a RAFT", again, counters), config

"""`oclr convert`: a released checkpoint of any model that this package has."""

from pathlib import Path

from oclr_jax.torch_import.names_oclr import convert_release, read_state_dict
from oclr_jax.torch_import.names_raft import convert_raft_release, is_raft


def convert_checkpoint(in_pth: str | Path, out_safetensors: str | Path) -> str:
    """Converts a released PyTorch file to a safetensors file, whole or not at all.

    Returns:
      what was written, in words.

    Raises:
      UserError: for every file that is not such a checkpoint, or that cannot be read or written.
    """
    state, _ = read_state_dict(in_pth)
    if is_raft(state):
        raft = convert_raft_release(in_pth, out_safetensors)
        return f"{raft.name}, {'RAFT-small' if raft.model.small else 'RAFT'}"
    info = convert_release(in_pth, out_safetensors)
    return f"{info.name}, {info.model.queries} layers"

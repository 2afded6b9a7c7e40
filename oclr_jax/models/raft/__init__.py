"""RAFT and RAFT-small (Teed and Deng, ECCV 2020): learned optical flow."""

from oclr_jax.models.raft.model import (
    MIN_SIDE,
    RAFT,
    STRIDE,
    Context,
    RAFTConfig,
    parameter_shapes,
)

__all__ = ["MIN_SIDE", "RAFT", "STRIDE", "Context", "RAFTConfig", "parameter_shapes"]

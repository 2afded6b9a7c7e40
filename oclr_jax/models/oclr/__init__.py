"""OCLR (first paper, section 2.2): a U-Net with a transformer bottleneck."""

from oclr_jax.models.oclr.model import (
    OCLR,
    OCLRConfig,
    OCLROutput,
    composing_order,
    parameter_shapes,
)

__all__ = ["OCLR", "OCLRConfig", "OCLROutput", "composing_order", "parameter_shapes"]

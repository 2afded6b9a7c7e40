"""Segment Anything (Kirillov et al., ICCV 2023) and HQ-SAM (Ke et al., NeurIPS 2023)."""

from oclr_jax.models.sam.config import MODELS, SAMConfig
from oclr_jax.models.sam.decoder import Masks
from oclr_jax.models.sam.model import SAM, parameter_shapes
from oclr_jax.models.sam.prompts import BACKGROUND, FOREGROUND, Prompts

__all__ = [
    "BACKGROUND",
    "FOREGROUND",
    "MODELS",
    "SAM",
    "Masks",
    "Prompts",
    "SAMConfig",
    "parameter_shapes",
]

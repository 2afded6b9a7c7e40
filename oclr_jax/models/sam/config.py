"""Sizes of the released models of Segment Anything."""

from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp

from oclr_jax.models.refinement_config import check_counts, config_from_dict
from oclr_jax.types import PRECISIONS


@dataclass(frozen=True)
class SAMConfig:
    """Size of the model, and how it computes. The default is ViT-B.

    Raises ValueError for values that make no model.
    """

    width: int = 768  # channels of an image token
    depth: int = 12  # blocks of the encoder
    heads: int = 12  # of the encoder's attention
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)  # that attend to the whole image
    side: int = 1024  # of the square image, pixels
    patch: int = 16  # side of a patch, pixels
    window: int = 14  # side of the windows of all other blocks, patches
    channels: int = 256  # of the image embedding
    decoder_heads: int = 8  # of the decoder's attention
    decoder_hidden: int = 2048  # units of the decoder's feed-forward layers
    quality_hidden: int = 256  # units of the head that predicts the IoU
    mask_channels: int = 16  # of an encoded mask prompt
    hq: bool = False  # HQ-SAM: one more mask token, on features of fine detail
    compute_dtype: str = "float32"  # of the encoder, or "bfloat16"; all else is float32

    def __post_init__(self):
        counts = "width depth heads side patch window channels decoder_heads decoder_hidden"
        check_counts(self, (*counts.split(), "quality_hidden", "mask_channels"))
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.side % self.patch:
            raise ValueError(f"side {self.side} must be a multiple of patch {self.patch}")
        # The cross-attention works at half the width; the masks have an eighth of the channels.
        if self.channels % (2 * self.decoder_heads) or self.channels % 8:
            raise ValueError(
                f"channels {self.channels} must be a multiple of 8 and of twice decoder_heads "
                f"{self.decoder_heads}"
            )
        if self.mask_channels % 4:
            raise ValueError(f"mask_channels must be a multiple of 4: {self.mask_channels}")
        if not all(type(i) is int and 0 <= i < self.depth for i in self.global_blocks):
            raise ValueError(
                f"global_blocks must be blocks below {self.depth}: {self.global_blocks}"
            )
        if self.hq and not self.global_blocks:
            raise ValueError("hq needs global_blocks, the first of which it reads")
        if self.compute_dtype not in PRECISIONS:
            raise ValueError(f"compute_dtype must be float32 or bfloat16: {self.compute_dtype!r}")

    @property
    def grid(self) -> int:
        """Patches along a side of the image."""
        return self.side // self.patch

    @property
    def mask_side(self) -> int:
        """Side of the mask prompts and of the predicted masks."""
        return 4 * self.grid

    @property
    def embedding_channels(self) -> int:
        """Channels of an image embedding; with `hq`, early features stand behind the others."""
        return self.channels + (self.width if self.hq else 0)

    @property
    def dtype(self) -> jnp.dtype | None:
        """Compute dtype of the encoder; None for that of its input and parameters."""
        return jnp.dtype("bfloat16") if self.compute_dtype == "bfloat16" else None

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self) | {"global_blocks": list(self.global_blocks)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SAMConfig":
        """Inverse of `to_dict`. Raises ValueError for missing, unknown or mistyped fields."""
        return config_from_dict(cls, values)


# The released models.
MODELS = {
    "ViT-B": SAMConfig(),
    "ViT-L": SAMConfig(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "ViT-H": SAMConfig(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}

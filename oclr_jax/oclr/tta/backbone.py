"""Image features of DINO for whole videos: the frozen blocks once, the last ones on demand."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float16, UInt8

from oclr_jax.errors import UserError
from oclr_jax.models.dino import DINO, DINOConfig, normalize_images
from oclr_jax.models.precision import choose_precision
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.weights.file import load_weights
from oclr_jax.weights.registry import find_weights

# Frames per call of the model. On a CPU, more would only exceed its caches. The last call is padded
# to this number, so each frame size compiles once.
CPU_BATCH = 1
ACCELERATOR_BATCH = 8


@dataclass(frozen=True)
class Backbone:
    """DINO, split into frozen blocks and the last blocks, which fine-tuning changes."""

    variables: Any  # "params"
    config: DINOConfig
    name: str  # of the weights
    digest: str  # of their file
    blocks: int  # last blocks

    @property
    def frozen_id(self) -> str:
        """Names everything that the tokens of `frozen_tokens` depend on, apart from the frames."""
        return f"{self.digest} {self.config} tokens before the last {self.blocks} blocks, float16"

    def frozen_tokens(
        self, frames: Iterable[UInt8[np.ndarray, "H W 3"]]
    ) -> Iterator[Float16[np.ndarray, "n c"]]:
        """Yields the tokens of each frame before the last blocks; frames have the working size."""
        size = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
        frames = iter(frames)
        while batch := list(islice(frames, size)):
            images = np.stack(batch + batch[-1:] * (size - len(batch)))
            tokens = _frozen(self.variables, images, self.config, self.blocks)
            yield from np.asarray(tokens)[: len(batch)]

    def features(
        self, tokens: Float16[np.ndarray, "n c"], height: int, width: int
    ) -> Float[Array, "h w c"]:
        """Features of unit length on the grid of the patches of a frame of `height` x `width`."""
        cells = (height // self.config.patch, width // self.config.patch)
        features = _adapted(self.variables, tokens[None], self.config, self.blocks)
        return features.reshape(*cells, -1)

    def with_last_blocks(self, params: dict[str, Any]) -> "Backbone":
        """The same model with other parameters in its last blocks, see `last_params`."""
        return replace(self, variables={"params": self.variables["params"] | params})

    def last_params(self) -> dict[str, Any]:
        """The parameters of the last blocks."""
        depth = self.config.depth
        names = [f"blocks_{index}" for index in range(depth - self.blocks, depth)]
        return {name: self.variables["params"][name] for name in names}


def load_backbone(config: TTAConfig, precision: str | None = None) -> Backbone:
    """Loads the image features that a configuration names.

    Args:
      precision: "float32" or "bfloat16"; None for that of `choose_precision`.

    Raises:
      UserError: the weights are missing, or of a model that cannot be used here.
    """
    path = find_weights(config.weights)
    variables, info = load_weights(path, "dino")
    patch, depth = info.model.patch, info.model.depth
    if config.short_side % patch or config.long_multiple % patch:
        raise UserError(
            f"{path} has patches of {patch} pixels, which do not fill frames of "
            f"{config.short_side} rows; use weights with patches of 8 or 16 pixels."
        )
    if config.blocks > depth:
        raise UserError(
            f"{path} has {depth} blocks and {config.blocks} of them are fine-tuned; use weights of "
            "a deeper model."
        )
    model = replace(info.model, compute_dtype=choose_precision(precision))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Backbone(jax.device_put(variables), model, info.name, digest, config.blocks)


def working_size(height: int, width: int, config: TTAConfig) -> tuple[int, int]:
    """Size to which frames are stretched: the short side is given, the long one rounded down."""
    short, multiple = config.short_side, config.long_multiple
    long = max(max(height, width) * short // min(height, width) // multiple, 1) * multiple
    return (short, long) if height <= width else (long, short)


@lru_cache(maxsize=4)
def _model(config: DINOConfig) -> DINO:
    return DINO(config)


@partial(jax.jit, static_argnames=("config", "blocks"))
def _frozen(
    variables: Any, images: UInt8[Array, "b H W 3"], config: DINOConfig, blocks: int
) -> Float16[Array, "b n c"]:
    """Tokens before the last blocks; float16 loses less of them than bfloat16."""
    images = normalize_images(images.astype(jnp.float32) / 255)
    tokens = _model(config).apply(variables, images, blocks, method=DINO.first_blocks)
    return tokens.astype(jnp.float16)


@partial(jax.jit, static_argnames=("config", "blocks"))
def _adapted(
    variables: Any, tokens: Float16[Array, "b n c"], config: DINOConfig, blocks: int
) -> Float[Array, "b m c"]:
    """Features of unit length of the m patches."""
    features = patch_features(config, variables, tokens, blocks)
    norms = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(norms, 1e-12)


def patch_features(
    config: DINOConfig, variables: Any, tokens: Float16[Array, "b n c"], blocks: int
) -> Float[Array, "b m c"]:
    """Output of the model for the m patches, from the tokens before the last blocks."""
    tokens = tokens.astype(jnp.float32)
    return _model(config).apply(variables, tokens, blocks, method=DINO.last_blocks)[
        :, config.extra_tokens :
    ]

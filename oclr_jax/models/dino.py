"""The vision transformer of DINO, DINOv2 and MAE, for dense features of images.

Caron et al.: "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021). The first
paper adapts its features to each video (section 3.4); the second paper's selector and corrector
read them. Table 9 of the second paper compares DINOv2 (Oquab et al., 2023) and MAE (He et al.,
CVPR 2022).
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.models.parameters import flatten

NORM_EPSILON = 1e-6
CUBIC_A = -0.75  # coefficient of the cubic kernel that interpolates positions
# The published program adds this to the size of the new grid, so that rounding never loses a row.
GRID_OFFSET = 0.1
# Attention scores held at once; 16 MiB in float32, which a CPU keeps in its caches.
MAX_SCORES = 2**22
# Of RGB in 0..1. The first 0.228 is the first paper's; DINO was trained with 0.229.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.228, 0.224, 0.225)


@dataclass(frozen=True)
class DINOConfig:
    """Size of the model, and how it computes. The default is ViT-S/8."""

    patch: int = 8  # side of a patch, pixels
    width: int = 384  # channels of a token
    depth: int = 12  # blocks
    heads: int = 6  # of attention
    compute_dtype: str = "float32"  # or "bfloat16"; parameters, softmax and residuals stay float32
    trained_side: int = 224  # pixels of the square images of the position embedding
    layer_scale: bool = False  # a learned factor per channel on each residual branch (DINOv2)
    registers: int = 0  # learned tokens without a position (DINOv2 with registers)

    def __post_init__(self):
        for name in ("patch", "width", "depth", "heads", "trained_side"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive integer: {value!r}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.trained_side % self.patch:
            raise ValueError(f"patch must divide {self.trained_side}: {self.patch}")
        if type(self.layer_scale) is not bool:
            raise ValueError(f"layer_scale must be true or false: {self.layer_scale!r}")
        if type(self.registers) is not int or self.registers < 0:
            raise ValueError(f"registers must be a whole number from 0: {self.registers!r}")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype must be float32 or bfloat16: {self.compute_dtype!r}")

    @property
    def extra_tokens(self) -> int:
        """Tokens before those of the patches: the class token and the registers."""
        return 1 + self.registers

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DINOConfig":
        """Inverse of `to_dict`; raises ValueError on missing, unknown or mistyped fields."""
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            raise ValueError(f"model config: it must have exactly the fields {sorted(names)}")
        return cls(**values)


# The released models. MAE ViT-B/16 has the architecture of DINO ViT-B/16.
MODELS = {
    "ViT-S/8": DINOConfig(),
    "ViT-S/16": DINOConfig(patch=16),
    "ViT-B/8": DINOConfig(width=768, heads=12),
    "ViT-B/16": DINOConfig(patch=16, width=768, heads=12),
    "DINOv2 ViT-S/14": DINOConfig(patch=14, trained_side=518, layer_scale=True),
    "DINOv2 ViT-S/14 with registers": DINOConfig(
        patch=14, trained_side=518, layer_scale=True, registers=4
    ),
}


class DINO(nn.Module):
    """Vision transformer: `model.apply(variables, images)`; the only variables are "params"."""

    config: DINOConfig

    def setup(self):
        config = self.config
        side = config.trained_side // config.patch
        embedding = nn.initializers.truncated_normal(0.02)
        self.class_token = self.param("class_token", embedding, (1, 1, config.width))
        self.positions = self.param("positions", embedding, (1, 1 + side**2, config.width))
        if config.registers:
            shape = (1, config.registers, config.width)
            self.register_tokens = self.param("registers", embedding, shape)
        self.patches = nn.Conv(
            config.width,
            (config.patch, config.patch),
            (config.patch, config.patch),
            "VALID",
            dtype=jnp.dtype(config.compute_dtype),
        )
        self.blocks = [Block(config) for _ in range(config.depth)]
        # The output is float32 in either compute dtype.
        self.norm = nn.LayerNorm(NORM_EPSILON, use_fast_variance=False)

    def __call__(
        self, images: Float[Array, "b H W 3"], last: int = 1
    ) -> tuple[Float[Array, "b n c"], ...]:
        """Tokens after each of the last blocks, in order, all through the final norm.

        Args:
          images: from `normalize_images`; height and width multiples of the patch.
          last: how many blocks, counted from the end.

        Returns:
          `last` arrays of float32. The first of the n tokens is the class token, then come the
          registers, if there are any, then the patches, row by row.

        Raises:
          ValueError: the size of the images is not a multiple of the patch, or the model does not
            have as many blocks as `last`.
        """
        if not 1 <= last <= self.config.depth:
            raise ValueError(f"last must be in 1..{self.config.depth}: {last}")
        tokens = self.embed(images)
        outputs = []
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index >= self.config.depth - last:
                outputs.append(self.norm(tokens))
        return tuple(outputs)

    def first_blocks(self, images: Float[Array, "b H W 3"], last: int) -> Float[Array, "b n c"]:
        """Tokens before the `last` blocks, for `last_blocks`."""
        tokens = self.embed(images)
        for block in self.blocks[: self.config.depth - last]:
            tokens = block(tokens)
        return tokens

    def last_blocks(self, tokens: Float[Array, "b n c"], last: int) -> Float[Array, "b n c"]:
        """Tokens after the `last` blocks and the final norm, from those of `first_blocks`.

        The two methods split the model where the first part is frozen and the other is trained.
        """
        for block in self.blocks[self.config.depth - last :]:
            tokens = block(tokens)
        return self.norm(tokens)

    def embed(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b n c"]:
        """The tokens before the first block: class token, registers and patches."""
        patch = self.config.patch
        batch, height, width, _ = images.shape
        if height % patch or width % patch or not min(height, width):
            raise ValueError(f"images must be multiples of {patch} pixels, not {height}x{width}")
        patches = self.patches(images).astype(jnp.float32).reshape(batch, -1, self.config.width)
        first = jnp.broadcast_to(self.class_token, (batch, 1, self.config.width))
        positions = jnp.asarray(self.positions)  # loaded parameters are numpy arrays
        # DINOv2 with registers was trained with the other interpolation.
        interpolate = antialiased_positions if self.config.registers else interpolate_positions
        positions = interpolate(positions, height // patch, width // patch)
        tokens = jnp.concatenate([first, patches], axis=1) + positions
        if not self.config.registers:
            return tokens
        registers = jnp.asarray(self.register_tokens)
        registers = jnp.broadcast_to(registers, (batch, *registers.shape[1:]))
        return jnp.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, then a feed-forward layer of four widths."""

    config: DINOConfig

    @nn.compact
    def __call__(self, tokens: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Takes and returns float32 tokens."""
        width, dtype = self.config.width, jnp.dtype(self.config.compute_dtype)

        def norm(name, x):
            return nn.LayerNorm(NORM_EPSILON, dtype, use_fast_variance=False, name=name)(x)

        def dense(name, features, x):
            return nn.Dense(features, dtype=dtype, name=name)(x)

        def scale(name, x):
            if not self.config.layer_scale:
                return x
            return x * self.param(name, nn.initializers.ones, (width,))

        packed = dense("qkv", 3 * width, norm("norm1", tokens))
        packed = packed.reshape(*tokens.shape[:2], 3, self.config.heads, -1)
        query, key, value = jnp.moveaxis(packed, (2, 3), (0, 2))
        attended = jnp.moveaxis(attend(query, key, value), 1, 2).reshape(tokens.shape)
        tokens = tokens + scale("attention_scale", dense("projection", width, attended))
        hidden = dense("hidden", 4 * width, norm("norm2", tokens))
        output = dense("output", width, nn.gelu(hidden, approximate=False))
        return tokens + scale("output_scale", output)


def attend(
    query: Float[Array, "b k n d"],
    key: Float[Array, "b k m d"],
    value: Float[Array, "b k m d"],
    max_scores: int = MAX_SCORES,
) -> Float[Array, "b k n d"]:
    """Scaled dot-product attention of k heads, in chunks of queries; the softmax is float32.

    Every query sees all keys, so the result does not depend on the chunks. Scores are recomputed in
    the backward pass.

    Args:
      query, key, value: `b` batch, `k` heads, `n` queries, `m` keys, `d` channels of the head.
      max_scores: how many of the b * k * n * m scores are held at once; at least those of one
        query.
    """
    batch, heads, count, channels = query.shape
    at_most = max(1, max_scores // (batch * heads * key.shape[2]))
    chunks = -(-count // at_most)
    query = query / np.sqrt(channels).astype(query.dtype)

    @jax.checkpoint
    def attend_chunk(chunk):
        scores = jnp.einsum("bknd,bkmd->bknm", chunk, key, preferred_element_type=jnp.float32)
        # Divided by their sum only after the product, which is smaller than the weights.
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
        found = jnp.einsum("bknm,bkmd->bknd", weights.astype(value.dtype), value)
        return (found / weights.sum(-1, keepdims=True)).astype(value.dtype)

    if chunks == 1:
        return attend_chunk(query)
    size = -(-count // chunks)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, chunks * size - count), (0, 0)))
    split = jnp.moveaxis(padded.reshape(batch, heads, chunks, size, channels), 2, 0)
    attended = jnp.moveaxis(jax.lax.map(attend_chunk, split), 0, 2)
    return attended.reshape(batch, heads, chunks * size, channels)[:, :, :count]


def interpolate_positions(
    embedding: Float[Array, "1 m c"], height: int, width: int
) -> Float[Array, "1 n c"]:
    """The position embedding on a grid of `height` x `width` patches, n = 1 + height * width.

    Bicubic, without antialiasing, at the published program's scale: (n + 0.1) / N along an axis
    from N to n patches. The class token's entry, the first, stays. The grid of the training images
    stays as it is.

    Args:
      embedding: of a square grid, m = 1 + N * N.
    """
    side = round(np.sqrt(embedding.shape[1] - 1))
    if (height, width) == (side, side):
        return embedding
    grid = embedding[0, 1:].reshape(side, side, -1)
    rows, columns = (jnp.asarray(cubic_weights(side, size)) for size in (height, width))
    # Full precision: an accelerator would otherwise round both factors.
    fine = jnp.einsum("yi,xj,ijc->yxc", rows, columns, grid, precision=jax.lax.Precision.HIGHEST)
    return jnp.concatenate([embedding[:, :1], fine.reshape(1, height * width, -1)], axis=1)


def antialiased_positions(
    embedding: Float[Array, "1 m c"], height: int, width: int
) -> Float[Array, "1 n c"]:
    """The same by cubic interpolation (a = -0.5) with antialiasing at the exact scale n / N."""
    side = round(np.sqrt(embedding.shape[1] - 1))
    if (height, width) == (side, side):
        return embedding
    grid = embedding[0, 1:].reshape(side, side, -1)
    fine = jax.image.resize(
        grid, (height, width, grid.shape[-1]), "cubic", precision=jax.lax.Precision.HIGHEST
    )
    return jnp.concatenate([embedding[:, :1], fine.reshape(1, height * width, -1)], axis=1)


def cubic_weights(old: int, new: int) -> np.ndarray:
    """Weights of cubic interpolation along an axis, float32 `[new, old]`; rows sum to 1.

    Position i of the new axis reads (i + 0.5) / scale - 0.5 of the old one, where the scale is
    (new + 0.1) / old. Reads beyond an end get the value at the end.
    """
    source = (np.arange(new) + 0.5) * old / (new + GRID_OFFSET) - 0.5
    base = np.floor(source).astype(int)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        distance = np.abs(source - base - tap)
        near = ((CUBIC_A + 2) * distance - (CUBIC_A + 3)) * distance**2 + 1
        far = CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
        index = np.clip(base + tap, 0, old - 1)
        np.add.at(weights, (np.arange(new), index), np.where(distance <= 1, near, far))
    return weights.astype(np.float32)


def normalize_images(images: Float[Array, "*b H W 3"]) -> Float[Array, "*b H W 3"]:
    """RGB in 0..1 to the model's input: less the mean, over the standard deviation."""
    return (images - jnp.asarray(IMAGE_MEAN)) / jnp.asarray(IMAGE_STD)


def parameter_shapes(config: DINOConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every variable of the model, by its path `params/a/b`."""
    image = jax.ShapeDtypeStruct((1, config.patch, config.patch, 3), "f4")
    variables = jax.eval_shape(DINO(config).init, jax.random.key(0), image)
    return {path: leaf.shape for path, leaf in flatten(variables).items()}

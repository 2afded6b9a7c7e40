"""The prompt encoder of Segment Anything: points, boxes and masks to tokens."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from oclr_jax.models.sam.config import SAMConfig
from oclr_jax.models.sam.encoder import NORM_EPSILON

# Labels of points.
FOREGROUND, BACKGROUND = 1, 0


class Prompts(NamedTuple):
    """What is asked for, n times on one image. A prompt has at least one of the three parts.

    points: (x, y) in pixels of the square image, and whether they are on the object.
    boxes: x0, y0, x1, y1 in pixels of the square image.
    masks: logits on the square image at a quarter of its size.
    """

    points: Float[Array, "n p 2"] | None = None
    labels: Int[Array, "n p"] | None = None  # FOREGROUND or BACKGROUND
    boxes: Float[Array, "n 4"] | None = None
    masks: Float[Array, "n s s"] | None = None


class PromptEncoder(nn.Module):
    """Encodes prompts as sparse tokens and as features of every place of the image."""

    config: SAMConfig

    def setup(self):
        channels, hidden = self.config.channels, self.config.mask_channels
        normal = nn.initializers.normal(1.0)
        # Random and not trained in the published model, but part of its weights.
        self.frequencies = self.param("frequencies", normal, (2, channels // 2))
        # By the label of a point; then of the upper left and the lower right corner of a box.
        self.kinds = [
            self.param(name, normal, (1, channels))
            for name in ("background", "foreground", "first_corner", "last_corner")
        ]
        self.no_point = self.param("no_point", normal, (1, channels))
        self.no_mask = self.param("no_mask", normal, (1, channels))
        self.mask1 = nn.Conv(hidden // 4, (2, 2), (2, 2), "VALID")
        self.mask_norm1 = nn.LayerNorm(NORM_EPSILON, use_fast_variance=False)
        self.mask2 = nn.Conv(hidden, (2, 2), (2, 2), "VALID")
        self.mask_norm2 = nn.LayerNorm(NORM_EPSILON, use_fast_variance=False)
        self.mask3 = nn.Dense(channels)

    def __call__(self, prompts: Prompts) -> tuple[Float[Array, "n q c"], Float[Array, "n _g _g c"]]:
        """Sparse tokens (points, padding, corners of boxes) and dense features.

        Without a mask, the dense features are the same at every place and have a grid of 1x1.
        """
        count = next(len(part) for part in prompts if part is not None)
        sparse = [jnp.zeros((count, 0, self.config.channels), self.frequencies.dtype)]
        kinds = jnp.concatenate(self.kinds)
        if prompts.points is not None:
            sparse.append(self.code(prompts.points + 0.5) + kinds[prompts.labels])
            if prompts.boxes is None:
                # The published program appends a point that is none where there is no box.
                shape = (count, 1, self.config.channels)
                sparse.append(jnp.broadcast_to(jnp.asarray(self.no_point), shape))
        if prompts.boxes is not None:
            corners = prompts.boxes.reshape(count, 2, 2)
            sparse.append(self.code(corners + 0.5) + kinds[2:])
        if prompts.masks is None:
            shape = (count, 1, 1, self.config.channels)
            return jnp.concatenate(sparse, 1), jnp.broadcast_to(jnp.asarray(self.no_mask), shape)
        masks = self.mask_norm1(self.mask1(prompts.masks[..., None]))
        masks = self.mask_norm2(self.mask2(nn.gelu(masks, approximate=False)))
        return jnp.concatenate(sparse, 1), self.mask3(nn.gelu(masks, approximate=False))

    def positions(self) -> Float[Array, "g g c"]:
        """The code of the centre of every patch."""
        centres = (np.arange(self.config.grid) + 0.5) * self.config.patch
        places = np.stack(np.meshgrid(centres, centres), axis=-1)
        return self.code(jnp.asarray(places, self.frequencies.dtype))

    def code(self, places: Float[Array, "*n 2"]) -> Float[Array, "*n c"]:
        """Sines and cosines of places (x, y) in pixels of the square image."""
        turns = (2 * places / self.config.side - 1) @ jnp.asarray(self.frequencies)
        angles = 2 * np.pi * turns
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)

"""Features and masks of a grid whose cells resemble themselves only."""

import jax
import jax.numpy as jnp
import numpy as np

HEIGHT, WIDTH = 4, 5


def distinct_cells() -> jax.Array:
    """Features `[h w c]`: a channel for each cell."""
    return jnp.eye(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, -1)


def random_masks(frames: int, channels: int = 3) -> list[np.ndarray]:
    """Soft masks `[h w k]` of each frame."""
    rng = np.random.default_rng(0)
    return list(rng.random((frames, HEIGHT, WIDTH, channels), np.float32))

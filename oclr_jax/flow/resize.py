"""Resizing of flow fields. Values are scaled with the grid."""

import numpy as np
from jaxtyping import Float32

from oclr_jax.video.resize import resize_image


def resize_flow(
    flow: Float32[np.ndarray, "*b h w c"], height: int, width: int
) -> Float32[np.ndarray, "*b H W c"]:
    """Resizes flow, whose values are in pixels of its grid, to another grid.

    Channels are (u, v), once or per gap. u is scaled by width / w and v by height / h.
    """
    *batch, h, w, c = flow.shape
    fields = flow.reshape(-1, h, w, c)
    resized = np.empty((len(fields), height, width, c), np.float32)
    for index, field in enumerate(fields):
        resized[index] = resize_image(field, height, width)
    resized *= np.tile(np.array([width / w, height / h], np.float32), c // 2)
    return resized.reshape(*batch, height, width, c)

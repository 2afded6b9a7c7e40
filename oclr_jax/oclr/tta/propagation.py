"""Mask propagation: labels move to the next frame along the affinity of image features.

First paper, supplement C, equation 10. Masks are soft, one channel per object after one for the
background, on the grid of the features.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import cv2
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.ops.affinity import nearest_cells


class Propagator:
    """Predicts the masks of a frame from the first frame and the last few ones before it."""

    def __init__(
        self,
        features: Float[Array, "h w c"],
        masks: Float32[np.ndarray, "h w k"],
        config: TTAConfig,
        previous: int,
    ) -> None:
        """Starts with the first frame; `previous` is how many of the others are remembered."""
        self._config = config
        self._first = (features, masks)
        self._others: deque = deque(maxlen=previous)
        # One compiled program serves every number of sources: these do not count.
        self._slots = previous + 1

    def predict(self, features: Float[Array, "h w c"]) -> Float32[np.ndarray, "h w k"]:
        """The masks of the frame with these features."""
        sources = [self._first, *self._others]
        empty = self._slots - len(sources)
        weights, index = nearest_cells(
            features,
            tuple(each for each, _ in sources + [self._first] * empty),
            jnp.arange(self._slots) < len(sources),
            self._config.radius,
            self._config.top,
            self._config.temperature,
        )
        weights, index = np.asarray(weights), np.asarray(index)
        masks = np.concatenate([masks.reshape(-1, masks.shape[-1]) for _, masks in sources])
        # Cells without weight may have an index of a slot that does not count.
        index = np.where(weights > 0, index, 0)
        found = np.zeros((*index.shape[:2], masks.shape[-1]), np.float32)
        for rank in range(index.shape[-1]):
            found += weights[..., rank, None] * masks[index[..., rank]]
        return found

    def remember(
        self, features: Float[Array, "h w c"], masks: Float32[np.ndarray, "h w k"]
    ) -> None:
        """Adds a frame, and forgets the oldest one if there are too many."""
        self._others.append((features, masks))


def propagate(
    first: Float32[np.ndarray, "h w k"],
    features: Iterable[Float[Array, "h w c"]],
    config: TTAConfig,
    flow_masks: Iterable[Float32[np.ndarray, "h w k"] | None] | None = None,
) -> Iterator[Float32[np.ndarray, "h w k"]]:
    """Yields the masks of all frames after the first one, in the order in which they come.

    Args:
      first: masks of the first frame.
      features: of the first frame and those after it.
      flow_masks: the flow model's masks of the frames after the first one, which the propagated
        ones are averaged with (dynamic refinement); None in frames that keep the propagated masks.
    """
    features = iter(features)
    propagator = Propagator(next(features), first, config, config.previous)
    flow_masks = None if flow_masks is None else iter(flow_masks)
    for here in features:
        masks = propagator.predict(here)
        known = None if flow_masks is None else next(flow_masks)
        if known is not None:
            masks = (masks + known) / 2
        propagator.remember(here, masks)
        yield masks


def object_masks(ids: UInt8[np.ndarray, "h w"], objects: list[int]) -> Float32[np.ndarray, "h w k"]:
    """The masks of a frame as propagation takes them: background, then one per object."""
    masks = [~np.isin(ids, objects), *(ids == id for id in objects)]
    return np.stack(masks, axis=-1).astype(np.float32)


def enlarge(
    masks: Float32[np.ndarray, "h w k"], height: int, width: int
) -> Float32[np.ndarray, "height width k"]:
    """Bilinear enlargement; each mask that is not empty is then stretched to 0..1.

    The visible object is the channel with the largest value.
    """
    enlarged = np.empty((height, width, masks.shape[-1]), np.float32)
    for channel in range(masks.shape[-1]):
        size = (width, height)
        mask = cv2.resize(masks[..., channel], size, interpolation=cv2.INTER_LINEAR)
        low, high = mask.min(), mask.max()
        if high > 0:
            # A mask of one value everywhere stays 0, as nothing stands out of it.
            mask = (mask - low) / max(high - low, np.float32(1e-12))
        enlarged[..., channel] = mask
    return enlarged

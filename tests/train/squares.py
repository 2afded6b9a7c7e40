"""Moving squares as training data: every batch a function of the step, made in no time."""

from collections.abc import Iterator

import numpy as np

from oclr_jax.train.data import TrainingData
from oclr_jax.types import Batch

FLOW_SETTINGS = {"estimator": "dis", "preset": "medium", "height": 64, "width": 96}


def squares(index: int, batch: int, frames: int, height: int, width: int) -> Batch:
    """Two squares that move apart, the first in front of the second, which it covers in part."""
    side = min(height, width) // 3
    rng = np.random.default_rng([7, index])
    flow = np.zeros((batch, frames, height, width, 4), np.float32)
    amodal = np.zeros((batch, frames, height, width, 3), np.uint8)
    for clip in range(batch):
        y, x = rng.uniform(0, height - side), rng.uniform(0, width - side)
        for layer in (1, 0):
            speed = rng.uniform(1, 3, 2) * rng.choice([-1, 1], 2)
            y, x = y + side / 3, x + side / 3
            for t in range(frames):
                top, left = int(y + t * speed[1]), int(x + t * speed[0])
                box = np.s_[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
                amodal[clip, t, :, :, layer][box] = 1
                flow[clip, t][box] = [*speed, *-speed]
    modal = amodal.copy()
    modal[..., 1] &= 1 - modal[..., 0]
    return {"flow": flow, "amodal": amodal, "modal": modal}


def squares_data(config) -> TrainingData:
    """Training and validation batches of the sizes in a training configuration."""
    size = (config.model.frames, config.model.height, config.model.width)

    def batches(start: int) -> Iterator[Batch]:
        for step in range(start, 10**9):
            yield squares(step, config.batch_size, *size)

    def validation() -> Iterator[Batch]:
        return (squares(10**6 + i, 1, *size) for i in range(3))

    metadata = {"data_version": "squares", "flow": FLOW_SETTINGS}
    return TrainingData(batches, validation, metadata)

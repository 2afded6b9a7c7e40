"""Drifting textures as training data of optical flow: every batch a function of the step."""

from collections.abc import Iterator

import cv2
import numpy as np

from oclr_jax.train.data import TrainingData
from oclr_jax.types import FlowBatch

FLOW_SETTINGS = {"estimator": "dis", "preset": "medium", "height": 64, "width": 96}
REACH = 6  # px, the fastest drift along an axis


def drifts(index: int, batch: int, height: int, width: int) -> FlowBatch:
    """Pairs of cuts of a texture, a few whole pixels apart; flow of every fifth row is unknown."""
    rng = np.random.default_rng([11, index])
    firsts, seconds, flows = [], [], []
    for _ in range(batch):
        coarse = rng.uniform(0, 255, (height // 4, width // 4, 3)).astype(np.float32)
        large = cv2.resize(coarse, (width + 2 * REACH, height + 2 * REACH)).astype(np.uint8)
        u, v = rng.integers(-REACH, REACH + 1, 2)
        cuts = [large[y:, x:][:height, :width] for y, x in ((REACH, REACH), (REACH - v, REACH - u))]
        firsts.append(cuts[0])
        seconds.append(cuts[1])
        flows.append(np.full((height, width, 2), [u, v], np.float32))
    valid = np.ones((batch, height, width), bool)
    valid[:, ::5] = False
    return {
        "first": np.stack(firsts),
        "second": np.stack(seconds),
        "flow": np.stack(flows),
        "valid": valid,
    }


def drifts_data(config, different: int = 10**9) -> TrainingData:
    """Training and validation batches of a configuration's size; so many different batches."""

    def batches(start: int) -> Iterator[FlowBatch]:
        for step in range(start, 10**9):
            yield drifts(step % different, config.batch_size, *config.data.crop)

    def validation() -> Iterator[FlowBatch]:
        for index in range(3):
            pair = drifts(10**6 + index, 1, *config.data.crop)
            yield pair | {"estimated": pair["flow"] + np.float32(0.5)}

    metadata = {"data_version": "drifts", "flow": FLOW_SETTINGS}
    return TrainingData(batches, validation, metadata)

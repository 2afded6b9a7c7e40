"""Small videos and a model that needs no training: it takes for an object what moves."""

from pathlib import Path

import cv2
import numpy as np

from oclr_jax.models.oclr import OCLRConfig
from oclr_jax.oclr.predict import Segmenter
from oclr_jax.weights.description import WeightsInfo

CONFIG = OCLRConfig(
    queries=3,
    frames=6,
    height=32,
    width=48,
    channels=(4, 4, 8, 8, 16),
    encoder_layers=1,
    decoder_layers=1,
    heads=2,
    feedforward=8,
)
INFO = WeightsInfo(
    CONFIG,
    flow={"estimator": "dis", "preset": "medium", "height": 64, "width": 96},
    data_version="none",
    name="motion",
)


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """A picture with edges everywhere, so that flow can be seen."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 4 + 2, width // 4 + 2, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def moving_clip(frames: int = 8, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    """`[t h w 3]`: one square goes right, another one left, before a still background."""
    side = height // 3
    video = np.stack([texture(seed, height, width)] * frames)
    ids = square_masks(frames, height, width)
    for frame, here in zip(video, ids, strict=True):
        for id in (1, 2):
            # The part of the square's own texture that is inside the frame.
            _, columns = np.nonzero(here == id)
            shown = columns.max() - columns.min() + 1 if columns.size else 0
            inside = slice(None, shown) if id == 1 else slice(side - shown, None)
            frame[here == id] = texture(seed + id, side, side)[:, inside].reshape(-1, 3)
    return video


def square_masks(frames: int = 8, height: int = 64, width: int = 96) -> np.ndarray:
    """`[t h w]`: ids of the squares in `moving_clip`, 1 the one that goes right."""
    side = height // 3
    ids = np.zeros((frames, height, width), np.uint8)
    for i in range(frames):
        ids[i, 4 : 4 + side, 4 + 2 * i : 4 + 2 * i + side] = 1
        x = width - side - 4 - 2 * i
        ids[i, height - side - 4 : height - 4, max(x, 0) : max(x + side, 0)] = 2
    return ids


def motion_segmenter() -> Segmenter:
    """Layers: nothing, what goes right, what goes left; the last is in front."""

    def predict(_, flow):
        u = flow[..., 0]
        probability = np.where(np.stack([u > 1e9, u > 0.4, u < -0.4], axis=-1), 0.9, 0.1)
        return probability.astype(np.float32), np.array([[2.0, 1.0, 0.0]], np.float32)

    return Segmenter(params=None, info=INFO, predict=predict)


def write_frames(folder: Path, frames: np.ndarray, suffix: str = ".png") -> Path:
    """Writes RGB frames as images called 0, 1, 2, ..."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        _, data = cv2.imencode(suffix, np.ascontiguousarray(frame[..., ::-1]))
        (folder / f"{number}{suffix}").write_bytes(data.tobytes())
    return folder

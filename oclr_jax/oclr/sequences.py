"""The layers of a whole sequence: windows of the flow model with their layers aligned."""

import numpy as np
from jaxtyping import Float32

from oclr_jax.oclr.predict import Segmenter, overlap_of, predict_window
from oclr_jax.oclr.windows import stream_windows
from oclr_jax.ops.metrics import assign


def predict_sequence(
    segmenter: Segmenter, flow: Float32[np.ndarray, "t h w c"]
) -> tuple[Float32[np.ndarray, "t h w k"], Float32[np.ndarray, "t k"]]:
    """Predicts amodal probabilities of K layers for every frame of a sequence of any length.

    The model sees overlapping windows. The layers of a window are permuted so that over the frames
    it shares with the window before, the mean absolute difference of their probabilities is least
    (Hungarian matching). The first half of the shared frames is that of the earlier window.

    Args:
      segmenter: the model.
      flow: (u, v) per gap of the model, in pixels of the model grid.

    Returns:
      Amodal probabilities, and the pseudo-depth of each layer in each frame, lowest in front; it is
      comparable within a frame.
    """
    model = segmenter.info.model
    probability = np.zeros((*flow.shape[:3], model.queries), np.float32)
    order = np.zeros((len(flow), model.queries), np.float32)
    covered = 0
    for start, window in stream_windows(flow, model.frames, overlap_of(model)):
        count = min(model.frames, len(flow) - start)
        layers, depth = predict_window(segmenter, np.stack(window))
        layers, shared = layers[:count], covered - start
        if shared > 0:
            before = probability[start:covered]
            distance = np.abs(before[..., :, None] - layers[:shared, ..., None, :])
            columns = [new for _, new in assign(-distance.mean(axis=(0, 1, 2), dtype=np.float64))]
            layers, depth = layers[..., columns], depth[columns]
        first = start + max(shared, 0) // 2
        probability[first : start + count] = layers[first - start :]
        order[first : start + count] = depth
        covered = start + count
    return probability, order

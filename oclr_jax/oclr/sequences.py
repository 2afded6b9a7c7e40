"""The layers of a whole sequence: windows of the flow model with their layers aligned."""

import numpy as np
from jaxtyping import Float32

from oclr_jax.flow import FrameFlow
from oclr_jax.oclr.predict import Segmenter, flow_windows, overlap_of, predict_layers
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
    # Only tracking looks at the frames themselves.
    black = np.zeros((*flow.shape[1:3], 3), np.uint8)
    frames = (FrameFlow(0, index, field, black) for index, field in enumerate(flow))
    covered = 0
    for window in flow_windows(frames, model.frames, overlap_of(model)):
        found = predict_layers(segmenter, window)
        layers, depth, shared = found.probability, found.order, max(covered - window.start, 0)
        if shared:
            before = probability[window.start : covered]
            distance = np.abs(before[..., :, None] - layers[:shared, ..., None, :])
            columns = [new for _, new in assign(-distance.mean(axis=(0, 1, 2), dtype=np.float64))]
            layers, depth = layers[..., columns], depth[columns]
        covered = window.start + window.count
        first = window.start + shared // 2
        probability[first:covered] = layers[shared // 2 :]
        order[first:covered] = depth
    return probability, order

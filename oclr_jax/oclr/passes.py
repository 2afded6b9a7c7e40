"""Test-time averaging: the mean of the model's layers over mirrored and reversed windows."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Float32

from oclr_jax.errors import UserError
from oclr_jax.ops.metrics import assign

# 1: the window itself. 2: also mirrored. 4: also reversed in time, and both.
PASSES = (1, 2, 4)

# Layers of a window: amodal probabilities [t h w k] and pseudo-depths [k].
Layers = tuple[np.ndarray, np.ndarray]


def choose_passes(passes: int | None, gaps: Sequence[int], default: int = 1) -> int:
    """Returns the number of passes, which for None is `default`.

    Raises:
      UserError: a model of flow at these gaps cannot run so many passes.
    """
    passes = default if passes is None else passes
    if passes not in PASSES:
        raise UserError(f"There is no prediction with {passes} passes; choose 1, 2 or 4.")
    single = [gap for gap in gaps if -gap not in gaps]
    if passes == 4 and single:
        raise UserError(
            f"Four passes reverse the video, and the model sees flow at gap {single[0]} but not at "
            f"{-single[0]}; choose 1 or 2 passes."
        )
    return passes


def predict_passes(
    predict: Callable[[Float32[np.ndarray, "t h w c"]], Layers],
    flow: Float32[np.ndarray, "t h w c"],
    gaps: Sequence[int],
    passes: int,
) -> Layers:
    """Averages the layers of a window over passes.

    The layers of each pass are matched to those of the first one by the IoU of their soft masks
    over the whole window (Hungarian). Probabilities are averaged, and so are pseudo-depths, of
    which only differences matter.

    Args:
      predict: the model.
      flow: (u, v) per gap, in pixels of the grid.
      gaps: of the flow, in frames. Each needs its opposite if there are four passes.
      passes: one of PASSES.
    """
    probability, order = first, depth = predict(flow)
    for mirrored, reversed_ in ((True, False), (False, True), (True, True))[: passes - 1]:
        seen = reverse_flow(flow, gaps) if reversed_ else flow
        found, found_order = predict(mirror_flow(seen) if mirrored else seen)
        found = found[:, :, ::-1] if mirrored else found
        found = found[::-1] if reversed_ else found
        columns = [column for _, column in assign(soft_iou(first, found))]
        probability = probability + found[..., columns]
        order = order + found_order[columns]
    return (probability / passes, order / passes) if passes > 1 else (first, depth)


def mirror_flow(flow: Float32[np.ndarray, "t h w c"]) -> Float32[np.ndarray, "t h w c"]:
    """Returns the flow of the video mirrored left to right."""
    mirrored = flow[:, :, ::-1].copy()
    mirrored[..., 0::2] *= -1
    return mirrored


def reverse_flow(
    flow: Float32[np.ndarray, "t h w c"], gaps: Sequence[int]
) -> Float32[np.ndarray, "t h w c"]:
    """Returns the flow of the video played backwards; it needs the opposite of each gap."""
    starts = [2 * list(gaps).index(-gap) for gap in gaps]
    return flow[::-1][..., [start + axis for start in starts for axis in (0, 1)]]


def soft_iou(
    one: Float[np.ndarray, "*t h w k"], other: Float[np.ndarray, "*t h w k"]
) -> Float[np.ndarray, "k k"]:
    """Returns the IoU of each pair of soft masks: sum of minima over sum of maxima."""
    table = np.zeros((one.shape[-1], other.shape[-1]))
    for row, column in np.ndindex(*table.shape):
        a, b = one[..., row], other[..., column]
        joint = np.maximum(a, b).sum(dtype=np.float64)
        table[row, column] = np.minimum(a, b).sum(dtype=np.float64) / max(joint, 1e-9)
    return table

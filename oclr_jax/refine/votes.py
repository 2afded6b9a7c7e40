"""Votes of neighbouring frames: masks pulled along the flow, weighted by how sure the flow is."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Float32

from oclr_jax.refine.joint import joint_probability
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import Track

REACH = 3  # neighbours in each direction
DECAY = 0.8  # weight of a neighbour, per step
# Standard deviation of the forward-backward error of flow that holds: one pixel of 240x427, as a
# share of the diagonal of the frame.
FLOW_ERROR = 1 / 490
# At most so many consecutive frames of a shot are voted on, and held in memory, at once.
PART_FRAMES = 96
_BATCH = 8  # frames per call of the compiled program
_FEWEST_CLASSES = 4


class Votes(NamedTuple):
    """What consecutive frames and their neighbours say together; class 0 is the background."""

    masks: Float16[np.ndarray, "t h w c"]  # mean over each frame and its neighbours
    # Soft IoU of each frame's foreground with that of its neighbours, 0 without neighbours.
    agreement: Float32[np.ndarray, " t"]


def collect_votes(video: RefinerVideo, objects: Sequence[Track], shot: range, part: range) -> Votes:
    """Votes on the frames `part` of a shot, which may see the whole shot.

    Classes are padded to a power of two, so that few programs are compiled. The padding is empty.
    Without flow to both sides (`RefinerVideo.gaps`) each frame has its own vote only.
    """
    step = min((gap for gap in video.gaps if gap > 0 and -gap in video.gaps), default=1)
    margin = REACH * step
    classes = max(_FEWEST_CLASSES, 1 << len(objects).bit_length())
    held: dict[int, tuple[np.ndarray, np.ndarray, bool]] = {}

    def read(frame: int) -> tuple[np.ndarray, np.ndarray, bool]:
        masks = np.zeros((*video.grid, classes), np.float32)
        masks[..., 0] = 1
        flow = None
        if frame in shot:
            masks[..., : len(objects) + 1] = joint_probability(objects, frame, video.grid)
            flow = _flow_ahead_and_back(video, frame, step)
        exists = flow is not None
        return masks, flow if exists else np.zeros((*video.grid, 4), np.float32), exists

    batches = []
    for first in range(part.start, part.stop, _BATCH):
        frames = range(first - margin, first + _BATCH + margin)
        held = {frame: held[frame] if frame in held else read(frame) for frame in frames}
        masks, flow, exists = (np.stack(field) for field in zip(*held.values(), strict=True))
        total, weights = neighbour_votes(masks, flow, exists, step)
        mean, agreement = _with_own(masks[margin:-margin], total, weights)
        batches.append((np.asarray(mean, np.float16), np.asarray(agreement)))
    masks, agreement = (np.concatenate(field)[: len(part)] for field in zip(*batches, strict=True))
    return Votes(masks, agreement)


def shot_agreement(
    video: RefinerVideo, objects: Sequence[Track], shot: range
) -> Float32[np.ndarray, " t"]:
    """`Votes.agreement` of the frames of a shot, which need not fit in memory."""
    parts = split_evenly(shot, PART_FRAMES)
    return np.concatenate([collect_votes(video, objects, shot, part).agreement for part in parts])


def split_evenly(shot: range, most: int) -> list[range]:
    """Splits frames into as few parts as possible, of equal length and at most `most` frames."""
    count = -(-len(shot) // most)
    ends = [shot.start + len(shot) * number // max(count, 1) for number in range(count + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def _flow_ahead_and_back(
    video: RefinerVideo, frame: int, step: int
) -> Float32[np.ndarray, "h w 4"] | None:
    if not {step, -step} <= set(video.gaps):
        return None
    flow = video.flow(frame)
    if flow is None:
        return None
    starts = [2 * video.gaps.index(gap) for gap in (step, -step)]
    return flow[..., [start + axis for start in starts for axis in (0, 1)]]


@jax.jit
def _with_own(
    own: Float[Array, "n h w c"], total: Float[Array, "n h w c"], weights: Float[Array, "n h w"]
) -> tuple[Float[Array, "n h w c"], Float[Array, " n"]]:
    """Returns the mean of each frame's mask, of weight 1, and the votes; and `Votes.agreement`."""
    one = (1 - own[..., 0]) * weights
    other = jnp.maximum(weights - total[..., 0], 0)
    both = jnp.minimum(one, other).sum(axis=(1, 2))
    agreement = both / jnp.maximum(jnp.maximum(one, other).sum(axis=(1, 2)), 1e-6)
    return (own + total) / (1 + weights[..., None]), agreement


@partial(jax.jit, static_argnames="step")
def neighbour_votes(
    masks: Float[Array, "m h w c"],
    flow: Float[Array, "m h w 4"],
    exists: Bool[Array, " m"],
    step: int,
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w"]]:
    """Sums the masks of the neighbours at d = 1 to REACH flow steps before and after each frame.

    A neighbour's mask is sampled where the chained flow leads. Its weight is DECAY^d times the
    product over the steps of exp(-|forward + backward|^2 / 2 FLOW_ERROR^2), and 0 outside the frame
    and where there is no such neighbour.

    Args:
      masks: soft masks of m = n + 2 REACH step consecutive frames.
      flow: (u, v) `step` frames ahead and then back, in pixels of this grid.
      exists: False for padding, and for frames of other shots.
      step: of the flow, in frames.

    Returns for the n frames in the middle the sum of the weighted masks and the sum of the weights.
    """
    margin = REACH * step
    count, height, width, channels = masks.shape
    count -= 2 * margin
    packed = jnp.concatenate([masks, flow], axis=-1).reshape(-1, height * width, channels + 4)
    scale = 1 / (FLOW_ERROR * np.hypot(height, width))
    y, x = jnp.meshgrid(jnp.arange(height) * 1.0, jnp.arange(width) * 1.0, indexing="ij")
    start = jnp.stack([x, y], axis=-1).reshape(1, -1, 2)
    total = jnp.zeros((count, height * width, channels))
    weights = jnp.zeros((count, height * width, 1))
    ahead, back = slice(channels, channels + 2), slice(channels + 2, channels + 4)
    for way, there, returned in ((step, ahead, back), (-step, back, ahead)):
        motion = packed[margin : margin + count, :, there]
        position = jnp.broadcast_to(start, motion.shape)
        weight = jnp.ones_like(weights)
        for distance in range(1, REACH + 1):
            position = position + motion
            first = margin + distance * way
            here, inside = _sample(packed[first : first + count], position, height, width)
            error = (motion + here[..., returned]) * scale
            weight = weight * jnp.exp(-0.5 * (error**2).sum(axis=-1, keepdims=True)) * inside
            weight = weight * exists[first : first + count, None, None] * DECAY
            total = total + weight * here[..., :channels]
            weights = weights + weight
            motion = here[..., there]
    shape = (count, height, width)
    return total.reshape(*shape, channels), weights.reshape(shape)


def _sample(
    images: Float[Array, "n p c"], position: Float[Array, "n p 2"], height: int, width: int
) -> tuple[Float[Array, "n p c"], Float[Array, "n p 1"]]:
    """Samples flattened images bilinearly at (x, y); also returns 1 for places inside, else 0."""
    x, y = position[..., :1], position[..., 1:]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)

    def take(row: Array, column: Array) -> Array:
        return jax.vmap(lambda image, at: image[at[:, 0]])(images, row * width + column)

    dx, dy = x - left, y - top
    upper = take(top, left) * (1 - dx) + take(top, right) * dx
    lower = take(bottom, left) * (1 - dx) + take(bottom, right) * dx
    return upper * (1 - dy) + lower * dy, inside.astype(images.dtype)

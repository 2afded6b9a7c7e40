"""Selection of exemplar masks, and windows of frames (second paper, sections 3.2 and A.3)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped


def select_exemplars(
    quality: Float[Array, "b t k"], count: int, length: Int[Array, "b"] | None = None
) -> tuple[Int[Array, "b {count} k"], Bool[Array, "b {count} k"]]:
    """The `count` frames of highest quality of every object, in order of time.

    Args:
      quality: of the masks, higher = better.
      count: frames per object.
      length: number of frames of each clip, the others are padding; None: all frames.

    Returns:
      frame indices; and whether each is a frame, False for what is missing where a clip has fewer
      than `count` frames (there the index is 0).
    """
    b, t, k = quality.shape
    length = jnp.full(b, t) if length is None else length
    known = jnp.arange(t)[None, :, None] < length[:, None, None]
    quality = jnp.where(known, quality, -jnp.inf)
    best = jnp.argsort(-quality, axis=1, stable=True)[:, :count]
    # Padding sorts behind the frames, as its index would be if the clip were longer.
    chosen = jnp.take_along_axis(known.repeat(k, axis=2), best, axis=1)
    best = jnp.sort(jnp.where(chosen, best, t), axis=1)
    best = jnp.pad(best, ((0, 0), (0, count - best.shape[1]), (0, 0)), constant_values=t)
    return jnp.where(best < t, best, 0), best < t


def take_own_frames(
    values: Shaped[Array, "b t k *s"], index: Int[Array, "b e k"]
) -> Shaped[Array, "b e k *s"]:
    """Of every object, its values in its exemplar frames."""
    per_object = jax.vmap(lambda clip, chosen: clip[chosen], in_axes=1, out_axes=1)
    return jax.vmap(per_object)(values, index)


def take_frames(
    values: Shaped[Array, "b t *s"], index: Int[Array, "b e k"]
) -> Shaped[Array, "b e k *s"]:
    """The values of the exemplar frames of every object."""
    return jax.vmap(lambda clip, chosen: clip[chosen])(values, index)


def one_object_per_pixel(
    probability: Float[Array, "*b k"], threshold: float = 0.5
) -> Bool[Array, "*b k"]:
    """Binary masks: a pixel belongs to its most probable object, if that is above the threshold.

    Ties go to the first object.
    """
    best = jax.nn.one_hot(jnp.argmax(probability, axis=-1), probability.shape[-1], dtype=bool)
    return best & (probability > threshold)


def frame_windows(count: int, size: int) -> list[list[int]]:
    """Frame indices of windows of `size` frames that cover `count` frames.

    Windows do not overlap, except for the last one, which ends with the last frame. A video shorter
    than a window repeats its last frame.
    """
    if count <= size:
        return [[*range(count), *[count - 1] * (size - count)]]
    starts = [*range(0, count - size, size), count - size]
    return [list(range(start, start + size)) for start in starts]


def selection_ap(
    quality: Float[Array, "t"] | Float[np.ndarray, "t"],
    iou: Float[Array, "t"] | Float[np.ndarray, "t"],
    count: int = 10,
) -> Float[Array, ""]:
    """Average precision, 0 to 1, of telling an object's best masks from its worst by quality.

    The `count` frames with the highest IoU are the positives, and the `count` with the lowest the
    negatives; fewer of both in a short clip. Frames of equal quality are found together, because
    their order is arbitrary. Chance level is 0.568 at 10. Second paper, appendix C.1 and table 3.

    Args:
      quality: predicted, higher = better.
      iou: of the masks with the ground truth.
      count: 10 in the paper.

    Returns:
      the precision; NaN for a single frame.
    """
    count = min(count, len(iou) // 2)
    order = jnp.argsort(-jnp.asarray(iou), stable=True)
    best, worst = (jnp.asarray(quality)[chosen] for chosen in (order[:count], order[-count:]))
    right, wrong = ((kept >= best[:, None]).sum(axis=1) for kept in (best, worst))
    return jnp.mean(right / (right + wrong))

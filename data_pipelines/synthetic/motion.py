"""Motion over time: homography paths, thin-plate splines and their inverses, joint angles."""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

# Fixed-point iterations that invert a bend; each reduces the error by the factor of its slope.
_INVERSE_STEPS = 12
# A bend with a larger slope could fold; it is scaled down to this slope.
MAX_SLOPE = 0.6


def log_uniform(rng: np.random.Generator, low: float | int, high: float | int) -> float:
    """A log-uniform random number in [low, high]."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def at_rest(frames: int) -> Float64[np.ndarray, "t 3 3"]:
    """Homographies of something that does not move."""
    return np.broadcast_to(np.eye(3), (frames, 3, 3))


def translation(offset: Float[np.ndarray, "... 2"]) -> Float64[np.ndarray, "... 3 3"]:
    """Homography that adds `offset` (x, y)."""
    offset = np.asarray(offset, np.float64)
    matrix = np.broadcast_to(np.eye(3), (*offset.shape[:-1], 3, 3)).copy()
    matrix[..., :2, 2] = offset
    return matrix


def similarity(
    scale: Float[np.ndarray, " t"], angle: Float[np.ndarray, " t"]
) -> Float64[np.ndarray, "t 3 3"]:
    """Rotation by `angle` (radians) and scaling about the origin."""
    matrix = np.zeros((len(scale), 3, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = scale * np.cos(angle)
    matrix[:, 1, 0] = scale * np.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    matrix[:, 2, 2] = 1
    return matrix


def perspective(tilt: Float[np.ndarray, "t 2"]) -> Float64[np.ndarray, "t 3 3"]:
    """Perspective distortion with vanishing-line coefficients `tilt` (per pixel)."""
    matrix = np.broadcast_to(np.eye(3), (len(tilt), 3, 3)).copy()
    matrix[:, 2, :2] = tilt
    return matrix


def placed(
    position: Float[np.ndarray, "t 2"],
    scale: Float[np.ndarray, " t"],
    angle: Float[np.ndarray, " t"],
    tilt: Float[np.ndarray, "t 2"],
    center: Float[np.ndarray, "2"],
) -> Float64[np.ndarray, "t 3 3"]:
    """Homographies that rotate, scale and tilt a canvas about `center`, then move it."""
    return (
        translation(position) @ similarity(scale, angle) @ perspective(tilt) @ translation(-center)
    )


def smooth_noise(
    rng: np.random.Generator, clock: Float[np.ndarray, " t"], channels: int, period: float | int
) -> Float64[np.ndarray, "t c"]:
    """Sum of three random sinusoids around `period` frames, of about unit amplitude."""
    frequency = rng.uniform(0.5, 1.5, (3, channels)) / period
    phase = rng.uniform(0, 2 * np.pi, (3, channels))
    weight = rng.dirichlet(np.ones(3), channels).T
    return (weight * np.sin(2 * np.pi * clock[:, None, None] * frequency + phase)).sum(1)


def pause_clock(frames: int, pauses: Float[np.ndarray, " t"]) -> Float64[np.ndarray, " t"]:
    """The clock of an object that pauses: the number of intervals in which it has moved.

    `pauses[i]` is 1 if it pauses between frames i - 1 and i.
    """
    return np.cumsum(np.concatenate([[0.0], 1.0 - pauses[1:frames]]))


def ride_while_paused(
    path: Float64[np.ndarray, "t 3 3"],
    ground: Float64[np.ndarray, "t 3 3"],
    pauses: Bool[np.ndarray, " t"],
) -> Float64[np.ndarray, "t 3 3"]:
    """The path of an object that moves with the background while it pauses.

    Outside the pauses it keeps the frame-to-frame motion of `path`.

    Source: OCLR supplement B.2, stationary objects.
    """
    out = path.copy()
    for i in range(1, len(path)):
        mover = ground if pauses[i] else path
        out[i] = mover[i] @ np.linalg.inv(mover[i - 1]) @ out[i - 1]
    return out / out[:, 2:, 2:]


def node_grid(height: float | int, width: float | int, step: float) -> Float32[np.ndarray, "n m 2"]:
    """Points (x, y) of a grid with spacing `step` that covers a canvas."""
    x = np.arange(int(np.ceil((width - 1) / step)) + 1, dtype=np.float32) * np.float32(step)
    y = np.arange(int(np.ceil((height - 1) / step)) + 1, dtype=np.float32) * np.float32(step)
    return np.stack(np.meshgrid(x, y), -1)


def thin_plate_bend(
    control: Float64[np.ndarray, "n 2"],
    shift: Float64[np.ndarray, "t n 2"],
    nodes: Float32[np.ndarray, "a b 2"],
) -> Float32[np.ndarray, "t a b 2"]:
    """Displacement of `nodes` under the thin-plate splines that move `control` by `shift`.

    Source: OCLR section 3, non-rigid object transformations (Bookstein's kernel r^2 log r).
    """
    count = len(control)
    affine = np.concatenate([np.ones((count, 1)), control], 1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _kernel(control[:, None] - control[None])
    system[:count, count:] = affine
    system[count:, :count] = affine.T
    right = np.zeros((count + 3, 2 * len(shift)))
    right[:count] = shift.transpose(1, 0, 2).reshape(count, -1)
    weights = np.linalg.solve(system, right)
    points = nodes.reshape(-1, 2).astype(np.float64)
    basis = np.concatenate(
        [_kernel(points[:, None] - control[None]), np.ones((len(points), 1)), points], 1
    )
    bend = (basis @ weights).reshape(*nodes.shape[:2], len(shift), 2)
    return np.ascontiguousarray(bend.transpose(2, 0, 1, 3), dtype=np.float32)


def _kernel(delta: np.ndarray) -> np.ndarray:
    squared = (delta**2).sum(-1)
    return 0.5 * squared * np.log(np.maximum(squared, 1e-12))


def control_shifts(
    rng: np.random.Generator,
    control: Float64[np.ndarray, "n 2"],
    clock: Float[np.ndarray, " t"],
    strength: float,
) -> Float64[np.ndarray, "t n 2"]:
    """Moves a random subset of the control points by up to half the distance to the nearest one.

    Source: OCLR section 3: d_i in (0, D_i / 2). `strength` in [0, 1] narrows the range.
    """
    distance = np.linalg.norm(control[:, None] - control[None], axis=-1)
    distance[np.diag_indices(len(control))] = np.inf
    moving = rng.random(len(control)) < rng.uniform(0.2, 0.8)
    moving[int(rng.integers(len(control)))] = True
    reach = moving * rng.uniform(0, 0.5, len(control)) * distance.min(1) * strength
    direction = rng.uniform(0, 2 * np.pi, len(control))
    vector = reach[:, None] * np.stack([np.cos(direction), np.sin(direction)], 1)
    course = smooth_noise(rng, clock, len(control), period=rng.uniform(10, 40))
    return course[..., None] * vector


def limit_slope(
    bend: Float32[np.ndarray, "t n m 2"], step: float
) -> Float32[np.ndarray, "t n m 2"]:
    """Scales a bend down so that it does not fold: neighbouring nodes keep their order."""
    across = np.abs(np.diff(bend, axis=2)).max(initial=0.0)
    down = np.abs(np.diff(bend, axis=1)).max(initial=0.0)
    steepest = float(max(across, down)) / step
    return bend * np.float32(min(1.0, MAX_SLOPE / max(steepest, 1e-9)))


def sample_nodes(
    nodes: Float32[np.ndarray, "n m 2"], points: Float32[np.ndarray, "a b 2"], step: float
) -> Float32[np.ndarray, "a b 2"]:
    """Bilinear interpolation of a node field at canvas points; constant outside the canvas."""
    at = points * np.float32(1 / step)
    return cv2.remap(
        nodes, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def invert_bend(
    bend: Float32[np.ndarray, "t n m 2"], step: float
) -> Float32[np.ndarray, "t n m 2"]:
    """The inverse of a bend at the nodes: for y = x + bend(x), x = y + inverse(y)."""
    height, width = bend.shape[1:3]
    nodes = node_grid((height - 1) * step + 1, (width - 1) * step + 1, step)[:height, :width]
    inverse = -bend
    for t in range(len(bend)):
        for _ in range(_INVERSE_STEPS):
            inverse[t] = -sample_nodes(bend[t], nodes + inverse[t], step)
    return inverse


def joint_poses(
    parents: list[int],
    pivots: Float64[np.ndarray, "n 2"],
    angles: Float64[np.ndarray, "t n"],
) -> Float64[np.ndarray, "n t 3 3"]:
    """The pose of every limb: rotation about its pivot, followed by its parent's pose."""
    poses = np.zeros((len(parents), len(angles), 3, 3))
    for i, parent in enumerate(parents):
        turn = similarity(np.ones(len(angles)), angles[:, i])
        local = translation(pivots[i]) @ turn @ translation(-pivots[i])
        poses[i] = local if parent < 0 else poses[parent] @ local
    return poses

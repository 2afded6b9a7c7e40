"""Changes of how parts of objects move in a clip: they rest, or swing.

Rendered objects are rigid, or bend smoothly, or have limbs; real ones do all of this at once. These
changes are made on the flow, so they cost next to nothing. Estimated flow spills over the outlines
of objects, which would give a changed part away; so the flow around it changes with it.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from data_pipelines.loaders.clip_transforms import FlowClip, visible_layers

# A part swings by at most about this share of the speed of its object against the background.
SWING = 0.5


def rest_part(clip: FlowClip, rng: np.random.Generator) -> FlowClip:
    """Lets a part of a random object, or all of it, rest for up to half of the clip.

    Its flow becomes that of the background, an affine motion and its deviations elsewhere; masks
    stay. What it belongs to is then only seen in other frames.
    """
    frames, height, width = clip["flow"].shape[:3]
    modal = _random_object(clip, rng)
    if modal is None:
        return clip
    background = ~clip["modal"].any(axis=-1)
    count = int(rng.integers(1, max(2, frames // 2 + 1)))
    first = int(rng.integers(frames - count + 1))
    along, _ = _random_direction(rng, height, width)
    edge = rng.uniform(-2.5, 1.0)
    shift = rng.integers([height, width])
    flow = clip["flow"].copy()
    for t in range(first, first + count):
        if not modal[t].any() or background[t].mean() < 0.1:
            continue
        camera = _affine_motion(flow[t], background[t])
        noise = np.where(background[t][..., None], flow[t] - camera, 0)
        part = _grown(_beyond(along, modal[t], edge), 5) & (background[t] | modal[t])
        flow[t][part] = (camera + np.roll(noise, shift, axis=(0, 1)))[part]
    return {**clip, "flow": flow}


def swing_part(clip: FlowClip, rng: np.random.Generator) -> FlowClip:
    """Lets a part of a random object swing against the rest of it; masks stay.

    A line cuts the part off. It shifts, turns and stretches about a joint on that line, to and fro.
    """
    frames, height, width = clip["flow"].shape[:3]
    modal = _random_object(clip, rng)
    if modal is None:
        return clip
    along, across = _random_direction(rng, height, width)
    edge = rng.uniform(-1.0, 1.2)
    speed = _relative_speed(clip["flow"], modal, ~clip["modal"].any(axis=-1))
    shift = rng.normal(size=2) * rng.uniform(0, SWING) * speed
    turn = rng.normal(size=(2, 2)) * rng.uniform(0, SWING) * speed
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 4) * frames
    flow = clip["flow"].copy()
    for t in range(frames):
        part = _beyond(along, modal[t], edge)
        if not part.any():
            continue
        inside = along[modal[t]]
        joint = along - inside.mean() - edge * inside.std(), across - across[part].mean()
        from_joint = np.stack(joint, axis=-1) / (inside.std() + 1)
        motion = shift + from_joint.clip(-3, 3) @ turn
        motion = np.float32(np.sin(phase + 2 * np.pi * t / period) * motion)
        flow[t] += _soft(part) * np.concatenate([motion, -motion], axis=-1)
    return {**clip, "flow": flow}


def _random_object(clip: FlowClip, rng: np.random.Generator) -> Bool[np.ndarray, "t h w"] | None:
    """The visible mask of a random object; None if there is none."""
    layers = np.flatnonzero(visible_layers(clip["modal"]))
    return clip["modal"][..., rng.choice(layers)].astype(bool) if len(layers) else None


def _random_direction(
    rng: np.random.Generator, height: int, width: int
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Coordinates of the grid along a random direction and across it, in pixels."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    right, down = float(np.cos(angle)), float(np.sin(angle))
    return right * x + down * y, right * y - down * x


def _beyond(
    along: Float32[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], edge: float
) -> Bool[np.ndarray, "h w"]:
    """The part of a mask beyond a line `edge` standard deviations from the mask's middle."""
    inside = along[mask]
    return mask & (along >= inside.mean() + edge * inside.std()) if inside.size else mask


def _affine_motion(
    flow: Float32[np.ndarray, "h w c"], where: Bool[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w c"]:
    """The affine motion of the pixels `where`, extrapolated to the grid."""
    height, width = where.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    basis = np.stack([np.ones_like(x), x, y], axis=-1)
    points, values = basis[where], flow[where]
    # The small addition is for pixels on a line.
    spread = points.T @ points + 1e-3 * np.eye(3, dtype=np.float32)
    return basis @ np.linalg.solve(spread, points.T @ values)


def _relative_speed(
    flow: Float32[np.ndarray, "t h w 4"],
    modal: Bool[np.ndarray, "t h w"],
    background: Bool[np.ndarray, "t h w"],
) -> float:
    """Root mean square speed of an object against the mean motion of the background, in px."""
    squares = [
        np.square(motion[thing] - motion[behind].mean(axis=0)).sum(axis=-1).mean() / 2
        for motion, thing, behind in zip(flow, modal, background, strict=True)
        if thing.any() and behind.any()
    ]
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


def _grown(mask: Bool[np.ndarray, "h w"], size: int) -> Bool[np.ndarray, "h w"]:
    """The mask dilated by a square of `size` pixels."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)).astype(bool)


def _soft(mask: Bool[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 1"]:
    """The mask with an edge that is three pixels wide."""
    return cv2.blur(mask.astype(np.float32), (3, 3))[..., None]

"""Painting of backdrops, parts and effects into a frame."""

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from data_pipelines.synthetic import motion
from data_pipelines.synthetic.scene import Body, Effect, Footage, Part, Scene

# The map of a bent backdrop is computed on a grid this many times coarser than the frame.
_MAP_STRIDE = 4
# Shadows and reflections are blurred, so they are painted on a grid this many times coarser.
_EFFECT_STRIDE = 2

# Points of a sprite, as fractions of its size.
_UNIT_GRID = np.stack(np.meshgrid(*[np.linspace(0, 1, 5, dtype=np.float32)] * 2), -1)

Inverse = Float32[np.ndarray, "t n m 2"] | None


def inverted(matrix: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """The inverse; 20 times as fast as numpy for such small matrices."""
    return cv2.invert(matrix)[1]


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Applies a homography to points [a b 2]."""
    return cv2.perspectiveTransform(points, matrix)


def to_sprite(
    points: Float32[np.ndarray, "a b 2"], body: Body, part: Part, inverse: Inverse, t: int
) -> Float32[np.ndarray, "a b 2"]:
    """Maps points of the rendered frame to sprite coordinates."""
    canvas = _apply(inverted(body.homographies[t]), points)
    if inverse is not None:
        canvas = canvas + motion.sample_nodes(inverse[t], canvas, body.bend_step)
    return _apply(inverted(part.pose[t]), canvas)


def to_frame(
    points: Float32[np.ndarray, "a b 2"], body: Body, part: Part, t: int
) -> Float32[np.ndarray, "a b 2"]:
    """Maps points of a sprite to coordinates of the rendered frame."""
    canvas = _apply(part.pose[t], points)
    if body.bend is not None:
        canvas = canvas + motion.sample_nodes(body.bend[t], canvas, body.bend_step)
    return _apply(body.homographies[t], canvas)


def _pixel_grid(left: int, top: int, right: int, bottom: int, stride: int = 1) -> np.ndarray:
    x = np.arange(left, right, stride, dtype=np.float32)
    y = np.arange(top, bottom, stride, dtype=np.float32)
    grid = np.empty((len(y), len(x), 2), np.float32)
    grid[..., 0], grid[..., 1] = x, y[:, None]
    return grid


def paint_backdrop(
    frame: UInt8[np.ndarray, "h w 3"], scene: Scene, inverse: Inverse, t: int
) -> None:
    """Paints the backdrop over the whole frame; it is mirrored beyond its canvas."""
    if isinstance(scene.backdrop, Footage):
        frame[:] = scene.backdrop.frames[t]
        return
    body, part = scene.bodies[0], scene.backdrop
    height, width = frame.shape[:2]
    image = np.ascontiguousarray(part.sprite[..., :3])
    if inverse is None:
        matrix = body.homographies[t] @ part.pose[t]
        cv2.warpPerspective(
            image, matrix, (width, height), dst=frame, borderMode=cv2.BORDER_REFLECT_101
        )
        return
    # The map is smooth: it is computed on a coarse grid beyond the frame, then interpolated.
    coarse = _pixel_grid(0, 0, width + _MAP_STRIDE, height + _MAP_STRIDE, _MAP_STRIDE)
    at = to_sprite(coarse, body, part, inverse, t) - coarse
    fine = _pixel_grid(0, 0, width, height)
    at = fine + motion.sample_nodes(at, fine, float(_MAP_STRIDE))
    cv2.remap(
        image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, dst=frame,
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip


def paint_effect(frame: UInt8[np.ndarray, "h w 3"], scene: Scene, effect: Effect, t: int) -> None:
    """Paints the shadow or the reflection of an object, ignoring the object's bend."""
    parts = [part for part in scene.parts if part.layer == effect.layer]
    shrink = np.diag([1 / _EFFECT_STRIDE, 1 / _EFFECT_STRIDE, 1.0])
    height, width = (side // _EFFECT_STRIDE for side in frame.shape[:2])
    body = scene.bodies[parts[0].body]
    placed = shrink @ body.homographies[t] @ effect.matrix
    image = np.zeros((height, width, 3), np.uint8)
    cover = np.zeros((height, width), np.uint8)
    for part in parts:
        matrix = placed @ part.pose[t]
        limb = cv2.warpPerspective(part.sprite[..., 3], matrix, (width, height))
        cover = np.maximum(cover, limb)
        if effect.mirror:
            colour = cv2.warpPerspective(part.sprite[..., :3], matrix, (width, height))
            cv2.copyTo(colour, (limb > 127).astype(np.uint8), image)
    if not cover.any():
        return
    softness = max(0.5, effect.softness / _EFFECT_STRIDE)
    if effect.mirror:
        image = cv2.GaussianBlur(image, (0, 0), softness)
    cover = cv2.GaussianBlur(cover, (0, 0), softness)
    size = frame.shape[1::-1]
    weight = cv2.resize(cover, size).astype(np.float32) * np.float32(effect.strength / 255)
    behind = frame * (1 - weight[..., None])
    if effect.mirror:
        behind += cv2.resize(image, size) * weight[..., None]
    frame[:] = np.rint(behind).astype(np.uint8)


def paint_part(
    frame: UInt8[np.ndarray, "h w 3"],
    body: Body,
    part: Part,
    inverse: Inverse,
    t: int,
    grid: tuple[int, int],
) -> Bool[np.ndarray, "gh gw"] | None:
    """Paints a part over the frame; returns the model-grid pixels that it covers, None if none."""
    box = _bounding_box(frame, body, part, t)
    if box is None:
        return None
    left, top, right, bottom = box
    if inverse is None:
        offset = motion.translation(np.array([-left, -top], np.float64))
        matrix = offset @ body.homographies[t] @ part.pose[t]
        size = (right - left, bottom - top)
        patch = cv2.warpPerspective(part.sprite, matrix, size, borderMode=cv2.BORDER_REPLICATE)
    else:
        at = to_sprite(_pixel_grid(left, top, right, bottom), body, part, inverse, t)
        patch = cv2.remap(
            part.sprite, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    cover = np.ascontiguousarray(patch[..., 3])
    if not cv2.countNonZero(cover):
        return None
    window = frame[top:bottom, left:right]
    weight = cover[..., None].astype(np.float32) * np.float32(1 / 255)
    window += np.round((patch[..., :3] - window.astype(np.float32)) * weight).astype(np.uint8)
    whole = np.zeros(frame.shape[:2], np.uint8)
    whole[top:bottom, left:right] = cover
    return cv2.resize(whole, grid, interpolation=cv2.INTER_AREA) >= 128


def _bounding_box(
    frame: np.ndarray, body: Body, part: Part, t: int
) -> tuple[int, int, int, int] | None:
    """The rectangle of the frame that a part can cover: left, top, right, bottom."""
    height, width = part.sprite.shape[:2]
    corners = _UNIT_GRID * np.array([width - 1, height - 1], np.float32)
    at = to_frame(corners, body, part, t).reshape(-1, 2)
    # Between the tested points a bend deviates by less than its range.
    margin = 2.0
    if body.bend is not None:
        margin += 0.5 * float(np.abs(body.bend[t]).max())
    low = np.floor(at.min(0) - margin).astype(int)
    high = np.ceil(at.max(0) + margin).astype(int) + 1
    left, top = np.maximum(low, 0)
    right, bottom = np.minimum(high, (frame.shape[1], frame.shape[0]))
    if right - left < 1 or bottom - top < 1:
        return None
    return int(left), int(top), int(right), int(bottom)

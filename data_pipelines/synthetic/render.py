"""Draws a scene: RGB, exact flow of the visible surface, amodal and modal masks, visibility."""

from typing import TypedDict

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from data_pipelines.synthetic import motion
from data_pipelines.synthetic.scene import LAYERS, Body, Part, Scene

# cv2.remap takes fewer points in a column than this.
_MAX_POINTS = 32000
# Bent backdrops are mapped on a grid this many times coarser than the frame.
_MAP_STRIDE = 4


class Sample(TypedDict):
    """One rendered clip; layers front to back, empty ones last.

    video: RGB at the estimator's working resolution.
    forward_flow, backward_flow: exact (u, v) of the visible surface to the next and to the previous
        frame, pixels of the model grid; at the clip's ends the other direction, negated.
    amodal: 0/1 whole shapes inside the frame. segmentations: layer + 1 of what is seen, 0 the
        background. layer_order: 0 .. n-1, then -1 for empty layers.
    visibility: seen share of each amodal mask, 0 where that is empty.
    stationary: layer rides on the background since the frame before.
    """

    video: UInt8[np.ndarray, "t hr wr 3"]
    forward_flow: Float32[np.ndarray, "t h w 2"]
    backward_flow: Float32[np.ndarray, "t h w 2"]
    amodal: UInt8[np.ndarray, "t h w 3"]
    segmentations: UInt8[np.ndarray, "t h w"]
    layer_order: Int32[np.ndarray, "3"]
    visibility: Float32[np.ndarray, "t 3"]
    stationary: Bool[np.ndarray, "t 3"]


def render(scene: Scene) -> Sample:
    """Renders every frame of a scene.

    Objects that leave the frame: amodal masks hold what lies inside the frame, hidden or not.
    Source: OCLR section 3 and supplement B.3 (layers composed back to front).
    """
    config = scene.config
    frames, height, width = config.frames, config.height, config.width
    inverses = [
        None if body.bend is None else motion.invert_bend(body.bend, body.bend_step)
        for body in scene.bodies
    ]
    video = np.empty((frames, config.render_height, config.render_width, 3), np.uint8)
    flows = np.zeros((2, frames, height, width, 2), np.float32)
    amodal = np.zeros((frames, height, width, LAYERS), np.uint8)
    owner = np.zeros((frames, height, width), np.int32)
    for t in range(frames):
        _paint_backdrop(video[t], scene, inverses[0], t)
        for index, part in enumerate(scene.parts[1:], start=1):
            body = scene.bodies[part.body]
            cover = _paint_part(video[t], body, part, inverses[part.body], t, (width, height))
            if cover is not None:
                owner[t][cover] = index
                if part.layer >= 0:
                    amodal[t, ..., part.layer] |= cover
        for index in np.unique(owner[t]):
            _surface_flow(scene, int(index), inverses, owner[t] == index, t, flows)
    # A missing neighbour: the other gap's flow of that frame, negated.
    flows[0, -1], flows[1, 0] = -flows[1, -1], -flows[0, 0]
    segmentations = np.array([part.layer + 1 for part in scene.parts], np.uint8)[owner]
    area = amodal.sum((1, 2), dtype=np.float32)
    seen = np.stack([(segmentations == k + 1).sum((1, 2)) for k in range(LAYERS)], 1)
    order = np.where(np.arange(LAYERS) < scene.objects, np.arange(LAYERS), -1)
    return Sample(
        video=video,
        forward_flow=flows[0],
        backward_flow=flows[1],
        amodal=amodal,
        segmentations=segmentations,
        layer_order=order.astype(np.int32),
        visibility=(seen / np.maximum(area, 1)).astype(np.float32),
        stationary=scene.stationary,
    )


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Homography of points [a b 2]."""
    return cv2.perspectiveTransform(points, matrix)


def _to_sprite(points, body: Body, part: Part, inverse, t: int) -> np.ndarray:
    """Sprite coordinates of rendered-frame points [a b 2]."""
    canvas = _apply(np.linalg.inv(body.homographies[t]), points)
    if inverse is not None:
        canvas = canvas + motion.sample_nodes(inverse[t], canvas, body.bend_step)
    return _apply(np.linalg.inv(part.pose[t]), canvas)


def _to_frame(points, body: Body, part: Part, t: int) -> np.ndarray:
    """Rendered-frame coordinates of sprite points [a b 2]."""
    canvas = _apply(part.pose[t], points)
    if body.bend is not None:
        canvas = canvas + motion.sample_nodes(body.bend[t], canvas, body.bend_step)
    return _apply(body.homographies[t], canvas)


def _pixel_grid(left: int, top: int, right: int, bottom: int, stride: int = 1) -> np.ndarray:
    x = np.arange(left, right, stride, dtype=np.float32)
    y = np.arange(top, bottom, stride, dtype=np.float32)
    return np.stack(np.meshgrid(x, y), -1)


def _paint_backdrop(frame: np.ndarray, scene: Scene, inverse, t: int) -> None:
    """Fills the frame; beyond its canvas the backdrop is mirrored."""
    body, part = scene.bodies[0], scene.parts[0]
    height, width = frame.shape[:2]
    image = np.ascontiguousarray(part.sprite[..., :3])
    if inverse is None:
        matrix = body.homographies[t] @ part.pose[t]
        cv2.warpPerspective(
            image, matrix, (width, height), dst=frame, borderMode=cv2.BORDER_REFLECT_101
        )
        return
    # The map is smooth: computed on a coarse grid that reaches past the frame, then resampled.
    coarse = _pixel_grid(0, 0, width + _MAP_STRIDE, height + _MAP_STRIDE, _MAP_STRIDE)
    at = _to_sprite(coarse, body, part, inverse, t) - coarse
    fine = _pixel_grid(0, 0, width, height)
    at = fine + motion.sample_nodes(at, fine, float(_MAP_STRIDE))
    cv2.remap(
        image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, dst=frame,
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip


def _paint_part(
    frame: np.ndarray, body: Body, part: Part, inverse, t: int, grid: tuple[int, int]
) -> np.ndarray | None:
    """Paints a part over the frame; returns the model-grid pixels it covers, None where none."""
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
        at = _to_sprite(_pixel_grid(left, top, right, bottom), body, part, inverse, t)
        patch = cv2.remap(
            part.sprite, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    cover = patch[..., 3]
    if not cover.any():
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
    """Rectangle of the frame that a part can touch: left, top, right, bottom."""
    height, width = part.sprite.shape[:2]
    rim = [(x, y) for x in np.linspace(0, width - 1, 5) for y in np.linspace(0, height - 1, 5)]
    at = _to_frame(np.array([rim], np.float32), body, part, t)[0]
    # A bend can bulge between the tested points by less than its own range.
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


def _surface_flow(scene: Scene, index: int, inverses, where: np.ndarray, t: int, flows) -> None:
    """Writes the exact flow of part `index` at the model-grid pixels `where`."""
    config, part = scene.config, scene.parts[index]
    body, inverse = scene.bodies[part.body], inverses[part.body]
    ratio = np.array(
        [config.render_width / config.width, config.render_height / config.height], np.float32
    )
    rows, columns = np.nonzero(where)
    pixels = np.stack([columns, rows], -1).astype(np.float32)
    points = (pixels + np.float32(0.5)) * ratio - np.float32(0.5)
    for start in range(0, len(points), _MAX_POINTS):
        chunk = slice(start, start + _MAX_POINTS)
        at = points[chunk, None]
        sprite = _to_sprite(at, body, part, inverse, t)
        # The inverse bend is interpolated: measure from where its answer really lies.
        here = at if inverse is None else _to_frame(sprite, body, part, t)
        for direction, neighbour in ((0, t + 1), (1, t - 1)):
            if 0 <= neighbour < config.frames:
                moved = _to_frame(sprite, body, part, neighbour) - here
                flows[direction, t, rows[chunk], columns[chunk]] = moved[:, 0] / ratio

"""Renders a scene: RGB, exact flow of the visible surface, amodal and modal masks, visibility."""

from typing import TypedDict

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from data_pipelines.synthetic import motion
from data_pipelines.synthetic.paint import (
    inverted,
    paint_backdrop,
    paint_effect,
    paint_part,
    to_frame,
    to_sprite,
)
from data_pipelines.synthetic.scene import BACKGROUND, LAYERS, OCCLUDER, Footage, Part, Scene
from data_pipelines.synthetic.sensor import expose
from oclr_jax.errors import UserError
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.gaps import neighbour
from oclr_jax.flow.resize import resize_flow

# Visibility of a pixel's surface in the frame that its flow leads to.
SEEN, HIDDEN, OUTSIDE, NO_FRAME = 0, 1, 2, 3
# cv2.remap accepts fewer points in a column than 2^15.
_MAX_POINTS = 32000


class Sample(TypedDict):
    """One rendered clip; layers front to back, empty ones last.

    video: RGB at the estimator's working resolution.
    forward_flow, backward_flow: exact (u, v) of the visible surface to the frame `gap` later and
        earlier, pixels of the model grid; negated flow of the other direction at the
        clip's ends.
    forward_occlusion, backward_occlusion: whether that surface is visible there: `SEEN`, `HIDDEN`
        (occluded), `OUTSIDE` of the frame, or `NO_FRAME` at the clip's ends.
    amodal: 0/1 masks of whole objects inside the frame.
    segmentations: layer + 1 of the visible object, 0 for the background and the occluder.
    occluder: 0/1 mask of the artificial occluder, which is in front of all layers.
    layer_order: 0 .. n-1, then -1 for empty layers.
    visibility: visible fraction of each amodal mask, 0 if it is empty.
    stationary: whether the layer has moved with the background since the previous frame.
    """

    video: UInt8[np.ndarray, "t hr wr 3"]
    forward_flow: Float32[np.ndarray, "t h w 2"]
    backward_flow: Float32[np.ndarray, "t h w 2"]
    forward_occlusion: UInt8[np.ndarray, "t h w"]
    backward_occlusion: UInt8[np.ndarray, "t h w"]
    amodal: UInt8[np.ndarray, "t h w 3"]
    segmentations: UInt8[np.ndarray, "t h w"]
    occluder: UInt8[np.ndarray, "t h w"]
    layer_order: Int32[np.ndarray, "3"]
    visibility: Float32[np.ndarray, "t 3"]
    stationary: Bool[np.ndarray, "t 3"]


def render(scene: Scene, gap: int = 1, footage_flow: FlowEstimator | None = None) -> Sample:
    """Renders every frame of a scene.

    Amodal masks end at the frame's border, and a surface whose flow leads out of the frame is
    `OUTSIDE`. Shadows and reflections belong to the background, in masks and in flow.

    Args:
      scene: from `compose_scene`.
      gap: distance of the frames of a flow field, in both directions; at least 1.
      footage_flow: estimates the flow of a real background video, on the background alone; all
        other flow is exact.

    Raises:
      UserError: the clip is too short for the gap, or a real background video has no estimator.

    Source: OCLR section 3 and supplement B.3 (layers composed back to front).
    """
    config = scene.config
    if isinstance(scene.backdrop, Footage) and footage_flow is None:
        raise UserError(
            "The flow of a real background video must be estimated; give `render` an estimator."
        )
    frames, height, width = config.frames, config.height, config.width
    inverses = [
        None if body.bend is None else motion.invert_bend(body.bend, body.bend_step)
        for body in scene.bodies
    ]
    video = np.empty((frames, config.render_height, config.render_width, 3), np.uint8)
    amodal = np.zeros((frames, height, width, LAYERS), np.uint8)
    # The visible part: 0 the backdrop, then the parts, so that larger numbers are in front.
    owner = np.zeros((frames, height, width), np.int16)
    for t in range(frames):
        _paint_frame(scene, inverses, t, video[t], owner[t], amodal[t])
    flows, occlusions = _flows(scene, inverses, owner, gap, footage_flow)
    # Motion blur follows the motion to the next frame, whatever the gap.
    if scene.sensor != type(scene.sensor)():
        expose(video, flows[0] / np.float32(gap), scene.sensor)
    layers = np.array([BACKGROUND, *(part.layer for part in scene.parts)])
    segmentations = np.maximum(layers + 1, 0).astype(np.uint8)[owner]
    area = amodal.sum((1, 2), dtype=np.float32)
    seen = np.stack([(segmentations == k + 1).sum((1, 2)) for k in range(LAYERS)], 1)
    order = np.where(np.arange(LAYERS) < scene.kind.objects, np.arange(LAYERS), -1)
    return Sample(
        video=video,
        forward_flow=flows[0],
        backward_flow=flows[1],
        forward_occlusion=occlusions[0],
        backward_occlusion=occlusions[1],
        amodal=amodal,
        segmentations=segmentations,
        occluder=(layers == OCCLUDER).astype(np.uint8)[owner],
        layer_order=order.astype(np.int32),
        visibility=(seen / np.maximum(area, 1)).astype(np.float32),
        stationary=scene.stationary,
    )


def _paint_frame(
    scene: Scene, inverses: list, t: int, frame: np.ndarray, owner: np.ndarray, amodal: np.ndarray
) -> None:
    """Paints frame t back to front into `frame`; fills in `owner` and `amodal`."""
    grid = owner.shape[::-1]
    paint_backdrop(frame, scene, inverses[0], t)
    pending = list(scene.effects)
    for index, part in enumerate(scene.parts, start=1):
        if part.layer != BACKGROUND:
            while pending:
                paint_effect(frame, scene, pending.pop(), t)
        body = scene.bodies[part.body]
        cover = paint_part(frame, body, part, inverses[part.body], t, grid)
        if cover is not None:
            owner[cover] = index
            if part.layer >= 0:
                amodal[..., part.layer] |= cover


def _flows(
    scene: Scene,
    inverses: list,
    owner: np.ndarray,
    gap: int,
    footage_flow: FlowEstimator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Flow [2 t h w 2] forward and backward, and visibility of the surfaces [2 t h w]."""
    frames, height, width = owner.shape
    flows = np.zeros((2, frames, height, width, 2), np.float32)
    occlusions = np.full((2, frames, height, width), NO_FRAME, np.uint8)
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    ratio = np.array([scene.config.render_width / width, scene.config.render_height / height])
    ratio = ratio.astype(np.float32)
    points = ((pixels + np.float32(0.5)) * ratio - np.float32(0.5)).reshape(-1, 1, 2)
    if isinstance(scene.backdrop, Footage):
        _estimate_footage(scene.backdrop, gap, footage_flow, flows)
    for t in range(frames):
        targets = [(d, t + sign * gap) for d, sign in enumerate((1, -1))]
        targets = [(d, target) for d, target in targets if 0 <= target < frames]
        if not isinstance(scene.backdrop, Footage):
            # Everywhere first: faster than selecting its pixels, which are most.
            moved = _surface_flow(scene, inverses, 0, points, t, targets)
            for (direction, _), vectors in zip(targets, moved, strict=True):
                np.divide(vectors, ratio, out=flows[direction, t].reshape(-1, 2))
        for index, where in _pixels_of_parts(owner[t]):
            moved = _surface_flow(scene, inverses, index, points[where], t, targets)
            for (direction, _), vectors in zip(targets, moved, strict=True):
                flows[direction, t].reshape(-1, 2)[where] = vectors / ratio
        for direction, target in targets:
            to = pixels + flows[direction, t]
            occlusions[direction, t] = _visibility(to, owner[t], owner[target])
    for direction, sign in enumerate((1, -1)):
        for t in range(frames):
            # A missing neighbour: the other gap's flow of that frame, negated.
            if neighbour(t, sign * gap, frames)[1] < 0:
                flows[direction, t] = -flows[1 - direction, t]
    return flows, occlusions


def _estimate_footage(
    footage: Footage, gap: int, estimator: FlowEstimator, flows: np.ndarray
) -> None:
    """Estimates the flow of a background video, without anything in front of it."""
    video, (height, width) = footage.frames, flows.shape[2:4]
    flows[0, :-gap] = resize_flow(estimator(video[:-gap], video[gap:]), height, width)
    flows[1, gap:] = resize_flow(estimator(video[gap:], video[:-gap]), height, width)


def _visibility(to: np.ndarray, owner: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Whether surfaces that move to the points `to` of another frame are visible there."""
    height, width = owner.shape
    at = np.rint(to).astype(np.int32)
    x, y = np.clip(at[..., 0], 0, width - 1), np.clip(at[..., 1], 0, height - 1)
    outside = (at[..., 0] != x) | (at[..., 1] != y)
    # Parts that are painted later are in front.
    return np.where(outside, OUTSIDE, np.where(there[y, x] > owner, HIDDEN, SEEN))


def _pixels_of_parts(owner: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Every visible part other than the backdrop, with the flat indices of its pixels."""
    flat = owner.ravel()
    covered = np.flatnonzero(flat)
    if not len(covered):
        return []
    order = covered[np.argsort(flat[covered], kind="stable")]
    starts = np.flatnonzero(np.diff(flat[order])) + 1
    groups = np.split(order, starts)
    return [(int(flat[group[0]]), group) for group in groups]


def _surface_flow(
    scene: Scene,
    inverses: list,
    index: int,
    points: np.ndarray,
    t: int,
    targets: list[tuple[int, int]],
) -> list[np.ndarray]:
    """Motion [n 2] of part `index` (0: the backdrop) to each target frame, rendered pixels.

    `points` [n 1 2] are its points in frame t, in rendered pixels.
    """
    part: Part = scene.backdrop if index == 0 else scene.parts[index - 1]
    body, inverse = scene.bodies[part.body], inverses[part.body]
    if inverse is None:
        back = inverted(body.homographies[t] @ part.pose[t])
        steps = [body.homographies[to] @ part.pose[to] @ back for _, to in targets]
        return [(cv2.perspectiveTransform(points, step) - points)[:, 0] for step in steps]
    flows = np.empty((len(targets), len(points), 2), np.float32)
    for start in range(0, len(points), _MAX_POINTS):
        chunk = slice(start, start + _MAX_POINTS)
        sprite = to_sprite(points[chunk], body, part, inverse, t)
        # The inverse bend is interpolated: measure from the point that it really stands for.
        here = to_frame(sprite, body, part, t)
        for number, (_, target) in enumerate(targets):
            flows[number, chunk] = (to_frame(sprite, body, part, target) - here)[:, 0]
    return list(flows)

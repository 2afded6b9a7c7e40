"""Cameras, backgrounds and artificial occluders."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from data_pipelines.synthetic import motion
from data_pipelines.synthetic.motion import log_uniform
from data_pipelines.synthetic.scene import (
    BACKGROUND,
    OCCLUDER,
    REFERENCE_WIDTH,
    Body,
    Footage,
    Part,
    SceneConfig,
)
from data_pipelines.synthetic.shapes import bar, blob, crop, polygon
from data_pipelines.synthetic.sources import Sources
from data_pipelines.synthetic.textures import add_plain_region


@dataclass(frozen=True)
class Camera:
    """The motion of a camera over the t frames of a clip.

    pan: displacement of the background's centre, pixels.
    shake: additional displacement of everything, pixels.
    zoom: scale of the background.
    roll: rotation of the background, radians.
    tilt: perspective of the background, per pixel.
    """

    pan: Float64[np.ndarray, "t 2"]
    shake: Float64[np.ndarray, "t 2"]
    zoom: Float64[np.ndarray, " t"]
    roll: Float64[np.ndarray, " t"]
    tilt: Float64[np.ndarray, "t 2"]


def sample_camera(rng: np.random.Generator, config: SceneConfig) -> Camera:
    """Samples a static or panning camera with shake and a little zoom, roll and tilt."""
    clock, unit = np.arange(config.frames, dtype=float), config.render_width / REFERENCE_WIDTH
    pan = np.zeros((config.frames, 2))
    if rng.random() >= config.static_camera:
        speed = log_uniform(rng, config.max_pan / 20, config.max_pan) * unit
        # Cameras pan sideways more than up and down.
        angle = rng.normal(0, 0.35) + np.pi * rng.integers(2)
        velocity = speed * np.array([np.cos(angle), np.sin(angle)])
        change = 1 + 0.6 * motion.smooth_noise(rng, clock, 1, period=30)
        pan = np.cumsum(change * velocity, 0) + speed * 2 * motion.smooth_noise(rng, clock, 2, 25)
    shake = unit * rng.choice([0.0, 0.5, 1.5], p=[0.4, 0.4, 0.2]) * rng.normal(0, 1, pan.shape)
    shake += unit * rng.uniform(0, 3) * motion.smooth_noise(rng, clock, 2, period=12)
    zoom = np.exp(log_uniform(rng, 2e-4, 0.02) * rng.choice([-1, 1]) * clock)
    roll = rng.normal(0, 0.003) * clock + 0.004 * motion.smooth_noise(rng, clock, 1, 20)[:, 0]
    tilt = rng.normal(0, 0.08, 2) + 0.05 * motion.smooth_noise(rng, clock, 2, 40)
    return Camera(pan, shake, zoom, roll, tilt / config.render_width)


def sample_background(
    rng: np.random.Generator, config: SceneConfig, camera: Camera, sources: Sources, video: bool
) -> tuple[list[Body], Part | Footage, list[Part]]:
    """Samples a background: its bodies, the backdrop, and parts at other depths in front of it.

    It is an image moved by the camera's homographies, or a video: a real one, or a procedural one
    with depth, waves and swaying parts.

    Source: OCLR section 3 and supplement B.1.
    """
    height, width = config.render_height, config.render_width
    if video and sources.videos is not None:
        frames = sources.footage(rng, config.frames, height, width)
        return [Body(follow_camera(frames), None, 1.0)], Footage(frames), []
    canvas = (int(height * 1.5), int(width * 1.5))
    image = sources.texture(rng, *canvas)
    if sources.images is None and rng.random() < config.plain:
        image = add_plain_region(rng, image)
    center = np.array([canvas[1], canvas[0]]) / 2
    middle = np.array([width, height]) / 2
    path = motion.placed(
        middle + camera.pan + camera.shake, camera.zoom, camera.roll, camera.tilt, center
    )
    bend, step = (None, 1.0) if not video else _deep_bend(rng, config, camera, canvas)
    opaque = np.concatenate([image, np.full((*canvas, 1), 255, np.uint8)], -1)
    bodies = [Body(path, bend, step)]
    backdrop = Part(opaque, motion.at_rest(config.frames), 0, BACKGROUND)
    parts = []
    for _ in range(int(rng.integers(1, 4)) if video and rng.random() < 0.5 else 0):
        body, part = _foreground_part(rng, config, camera, sources, path, canvas, len(bodies))
        bodies.append(body)
        parts.append(part)
    return bodies, backdrop, parts


def _foreground_part(
    rng: np.random.Generator,
    config: SceneConfig,
    camera: Camera,
    sources: Sources,
    path: np.ndarray,
    canvas: tuple[int, int],
    body: int,
) -> tuple[Body, Part]:
    """A static part nearer than the backdrop, with parallax; half of them sway like foliage."""
    # It moves with the backdrop, plus parallax along the camera's pan.
    parallax = motion.translation(rng.uniform(-0.25, 0.5) * camera.pan)
    size = max(8, int(config.render_height * rng.uniform(0.2, 0.8)))
    shape = (blob if rng.random() < 0.5 else polygon)(rng, size)
    where = rng.uniform(0.2, 0.8, 2) * (canvas[1], canvas[0]) - size / 2
    sprite, offset = crop(shape.limbs[0].alpha, sources.texture(rng, size, size))
    pose = np.broadcast_to(motion.translation(offset), (config.frames, 3, 3))
    if rng.random() < 0.5:
        clock = np.arange(config.frames, dtype=float)
        sway = rng.uniform(0.01, 0.12) * motion.smooth_noise(rng, clock, 1, rng.uniform(6, 25))
        root = np.array([size / 2, size * 0.9])
        turn = motion.similarity(np.ones(config.frames), sway[:, 0])
        pose = motion.translation(root) @ turn @ motion.translation(-root) @ pose
    moved = parallax @ path @ motion.translation(where)
    return Body(moved, None, 1.0), Part(sprite, pose, body, BACKGROUND)


def _deep_bend(
    rng: np.random.Generator, config: SceneConfig, camera: Camera, canvas: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """The bend of a video backdrop: parallax of uneven ground, and waves as on water."""
    unit, clock = config.render_width / REFERENCE_WIDTH, np.arange(config.frames, dtype=float)
    step = 12 * unit
    nodes = motion.node_grid(*canvas, step)
    x, y = nodes[..., 0] / canvas[1], nodes[..., 1] / canvas[0]
    # Inverse depth: a ground plane that is nearer further below the horizon, with low hills.
    ground = np.clip(y - rng.uniform(0.2, 0.7), 0, 1) * rng.uniform(-0.3, 1.2)
    frequency, phase = rng.uniform(0.5, 3, (2, 2)), rng.uniform(0, 1, 2)
    waves = np.tensordot(frequency, np.stack([x, y]), 1) + phase[:, None, None]
    depth = ground + rng.uniform(0, 0.2) * np.sin(2 * np.pi * waves).sum(0)
    bend = (camera.pan[:, None, None] * depth[..., None]).astype(np.float32)
    if rng.random() < 0.5:
        window = np.clip((y - rng.uniform(0, 0.9)) * rng.choice([-6, 6]), 0, 1)
        length, period = rng.uniform(25, 140) * unit, rng.uniform(4, 20)
        angle = rng.uniform(0, 2 * np.pi)
        travel = (nodes[..., 0] * np.cos(angle) + nodes[..., 1] * np.sin(angle)) / length
        wave = np.sin(2 * np.pi * (travel - clock[:, None, None] / period))
        reach = rng.uniform(0.3, 3.0) * unit * rng.normal(0, 1, 2)
        bend += ((window * wave)[..., None] * reach).astype(np.float32)
    return motion.limit_slope(bend, step), step


def sample_occluder(
    rng: np.random.Generator,
    config: SceneConfig,
    sources: Sources,
    ground: Body,
    passes: Float64[np.ndarray, "2"],
    frame: int,
) -> Part:
    """Samples an occluder in front of everything that moves with the background (section 3).

    Args:
      rng: random generator.
      config: sizes and ranges.
      sources: of its texture.
      ground: the body of the background.
      passes: (x, y) of an object in frame `frame`; the occluder covers about this point there.
      frame: see above.
    """
    height = config.render_height
    size = max(8, int(height * rng.uniform(0.3, 1.1)))
    shape = (bar, blob, polygon)[int(rng.integers(3))](rng, size)
    sprite, offset = crop(shape.limbs[0].alpha, sources.texture(rng, size, size))
    point = np.append(passes + rng.normal(0, 0.08 * height, 2), 1)
    x, y, w = np.linalg.inv(ground.homographies[frame]) @ point
    corner = np.array([x, y]) / w - size / 2 + offset
    pose = np.broadcast_to(motion.translation(corner), (config.frames, 3, 3))
    return Part(sprite, pose, 0, OCCLUDER)


def follow_camera(
    frames: UInt8[np.ndarray, "t h w 3"],
) -> Float64[np.ndarray, "t 3 3"]:
    """Homographies from frame 0 of a video to each frame, fitted to tracked corners.

    Between frames with too few corners the camera is assumed static.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    path = [np.eye(3)]
    for before, after in zip(grey[:-1], grey[1:], strict=True):
        step = None
        corners = cv2.goodFeaturesToTrack(before, 200, 0.01, 8)
        if corners is not None:
            there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None)
            found = found[:, 0] > 0
            if found.sum() >= 12:
                step, _ = cv2.findHomography(corners[found], there[found], cv2.RANSAC, 1.5)
        moved = (np.eye(3) if step is None else step) @ path[-1]
        path.append(moved / moved[2, 2])
    return np.stack(path)

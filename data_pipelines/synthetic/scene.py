"""What happens in a synthetic clip: a plain record of arrays, sampled before anything is drawn."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from data_pipelines.synthetic import motion
from data_pipelines.synthetic.shapes import Shape, blob, figure, polygon
from data_pipelines.synthetic.textures import texture

# Layers of every sample; empty ones are last.
LAYERS = 3
# Lengths and speeds below are in pixels of a frame this wide and scale with the rendered width.
REFERENCE_WIDTH = 448


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are drawn from. Speeds are pixels per frame at a width of 448."""

    # Frames of a clip.
    frames: int = 30
    # Model grid: flow and masks are stored there.
    height: int = 128
    width: int = 224
    # The flow estimator's working resolution: RGB is rendered there.
    render_height: int = 256
    render_width: int = 448
    # Object extent as a share of the frame height, drawn log-uniformly.
    min_extent: float = 0.28
    max_extent: float = 1.3
    # Share of clips without camera pan.
    static_camera: float = 0.2
    # Fastest pan; drawn log-uniformly from a 20th of it.
    max_pan: float = 14.0
    # Fastest object; drawn log-uniformly from 0.8.
    max_speed: float = 10.0
    # Share of objects that the camera keeps near one place.
    followed: float = 0.55
    # Least mean speed of an object relative to the background.
    min_relative_speed: float = 0.8
    # Share of objects that are polygons; the rest are figures and blobs.
    polygons: float = 0.35
    # Share of objects with thin-plate-spline motion (table B5: three quarters).
    bending: float = 0.75
    # Share of clips whose background has depth and water-like motion (table B5: half).
    deep_background: float = 0.5
    # Share of homography-background clips with stationary spells: a third of all clips.
    stationary: float = 2 / 3


@dataclass(frozen=True)
class Body:
    """Something that moves as one: a background or an object with all its parts.

    homographies: body canvas to rendered frame, pixels, one a frame.
    bend: displacement of the canvas before the homography, at nodes `bend_step` pixels apart
        (pixels), or None where the body keeps its shape.
    """

    homographies: Float64[np.ndarray, "t 3 3"]
    bend: Float32[np.ndarray, "t n m 2"] | None
    bend_step: float


@dataclass(frozen=True)
class Part:
    """One sprite that is painted over what is behind it.

    sprite: RGB and coverage. pose: sprite pixels to the body's canvas, one a frame.
    body: index of its body. layer: 0 is the object in front, -1 the background.
    """

    sprite: UInt8[np.ndarray, "h w 4"]
    pose: Float64[np.ndarray, "t 3 3"]
    body: int
    layer: int


@dataclass(frozen=True)
class Scene:
    """A clip before rendering.

    parts: back to front; the first one is the backdrop and fills the frame at all times.
    stationary: whether layer k rides on the background between frame t - 1 and frame t.
    """

    config: SceneConfig
    bodies: tuple[Body, ...]
    parts: tuple[Part, ...]
    objects: int
    stationary: Bool[np.ndarray, "t 3"]


@dataclass(frozen=True)
class _Camera:
    """pan: where the backdrop's centre has moved; shake: what moves everything; both pixels."""

    pan: np.ndarray
    shake: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray
    tilt: np.ndarray


def sample_scene(
    rng: np.random.Generator, config: SceneConfig, objects: int | None = None
) -> Scene:
    """Draws a scene with `objects` objects (1 to 3; drawn evenly if None).

    Source: OCLR section 3 and supplement B.
    """
    objects = int(rng.integers(1, LAYERS + 1)) if objects is None else objects
    deep = rng.random() < config.deep_background
    camera = _sample_camera(rng, config)
    bodies, parts = _sample_background(rng, config, camera, deep)
    spells = not deep and rng.random() < config.stationary
    stationary = np.zeros((config.frames, LAYERS), bool)
    if spells:
        stationary[:, :objects] = _sample_spells(rng, config.frames, objects)
    for layer in reversed(range(objects)):
        body, own = _sample_object(rng, config, camera, bodies[0], stationary[:, layer], objects)
        parts += [Part(sprite, pose, len(bodies), layer) for sprite, pose in own]
        bodies.append(body)
    return Scene(config, tuple(bodies), tuple(parts), objects, stationary)


def _unit(config: SceneConfig) -> float:
    return config.render_width / REFERENCE_WIDTH


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sample_camera(rng: np.random.Generator, config: SceneConfig) -> _Camera:
    clock, unit = np.arange(config.frames, dtype=float), _unit(config)
    pan = np.zeros((config.frames, 2))
    if rng.random() >= config.static_camera:
        speed = _log_uniform(rng, config.max_pan / 20, config.max_pan) * unit
        # Cameras pan sideways more than up and down.
        angle = rng.normal(0, 0.35) + np.pi * rng.integers(2)
        velocity = speed * np.array([np.cos(angle), np.sin(angle)])
        change = 1 + 0.6 * motion.smooth_noise(rng, clock, 1, period=30)
        pan = np.cumsum(change * velocity, 0) + speed * 2 * motion.smooth_noise(rng, clock, 2, 25)
    shake = unit * rng.choice([0.0, 0.5, 1.5], p=[0.4, 0.4, 0.2]) * rng.normal(0, 1, pan.shape)
    shake += unit * rng.uniform(0, 3) * motion.smooth_noise(rng, clock, 2, period=12)
    zoom = np.exp(_log_uniform(rng, 2e-4, 0.02) * rng.choice([-1, 1]) * clock)
    roll = rng.normal(0, 0.003) * clock + 0.004 * motion.smooth_noise(rng, clock, 1, 20)[:, 0]
    tilt = rng.normal(0, 0.08, 2) + 0.05 * motion.smooth_noise(rng, clock, 2, 40)
    return _Camera(pan, shake, zoom, roll, tilt / config.render_width)


def _sample_background(
    rng: np.random.Generator, config: SceneConfig, camera: _Camera, deep: bool
) -> tuple[list[Body], list[Part]]:
    """The backdrop and, in front of it, things at other depths that stand still in the world."""
    height, width = config.render_height, config.render_width
    canvas = (int(height * 1.5), int(width * 1.5))
    image = texture(rng, *canvas)
    center = np.array([canvas[1], canvas[0]]) / 2
    middle = np.array([width, height]) / 2
    frames = motion.placed(
        middle + camera.pan + camera.shake, camera.zoom, camera.roll, camera.tilt, center
    )
    bend, step = (None, 1.0) if not deep else _deep_bend(rng, config, camera, canvas)
    opaque = np.concatenate([image, np.full((*canvas, 1), 255, np.uint8)], -1)
    still = np.broadcast_to(np.eye(3), (config.frames, 3, 3))
    bodies = [Body(frames, bend, step)]
    parts = [Part(opaque, still, 0, -1)]
    for _ in range(int(rng.integers(1, 4)) if deep and rng.random() < 0.5 else 0):
        # Nearer things move as the backdrop does, and faster along the camera's own path.
        parallax = motion.translation(rng.uniform(-0.25, 0.5) * camera.pan)
        size = int(height * rng.uniform(0.2, 0.8))
        shape = (blob if rng.random() < 0.5 else polygon)(rng, size)
        where = rng.uniform(0.2, 0.8, 2) * (canvas[1], canvas[0]) - size / 2
        bodies.append(Body(parallax @ frames @ motion.translation(where), None, 1.0))
        sprite, offset = _crop(shape.limbs[0].alpha, texture(rng, size, size))
        pose = np.broadcast_to(motion.translation(offset), (config.frames, 3, 3))
        parts.append(Part(sprite, pose, len(bodies) - 1, -1))
    return bodies, parts


def _deep_bend(
    rng: np.random.Generator, config: SceneConfig, camera: _Camera, canvas: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """Parallax of an uneven ground, and waves as on water or in leaves."""
    unit, clock = _unit(config), np.arange(config.frames, dtype=float)
    step = 12 * unit
    nodes = motion.node_grid(*canvas, step)
    x, y = nodes[..., 0] / canvas[1], nodes[..., 1] / canvas[0]
    # Inverse depth: a ground that comes nearer from the horizon down, with low hills.
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


def _sample_spells(rng: np.random.Generator, frames: int, objects: int) -> np.ndarray:
    """At least one object stands still for 1 to 5 frames (supplement B.4)."""
    chosen = rng.random(objects) < 0.5
    chosen[int(rng.integers(objects))] = True
    still = np.zeros((frames, objects), bool)
    for layer in np.flatnonzero(chosen):
        length = min(int(rng.integers(1, 6)), frames - 1)
        start = int(rng.integers(1, frames - length + 1))
        still[start : start + length, layer] = True
    return still


def _sample_object(
    rng: np.random.Generator,
    config: SceneConfig,
    camera: _Camera,
    ground: Body,
    stationary: np.ndarray,
    objects: int,
) -> tuple[Body, list[tuple[np.ndarray, np.ndarray]]]:
    """One object: its body, and its sprites with their poses, back to front."""
    height = config.render_height
    largest = config.max_extent / (1 + 0.2 * (objects - 1))
    extent = _log_uniform(rng, config.min_extent, largest) * height
    canvas = max(16, int(extent * 1.3))
    draw = rng.random()
    kind = polygon if draw < config.polygons else (blob if draw < config.polygons + 0.2 else figure)
    shape = kind(rng, canvas)
    clock = motion.pause_clock(config.frames, stationary.astype(float))
    path = _sample_path(rng, config, camera, ground, clock, canvas)
    path = motion.ride_while_paused(path, ground.homographies, stationary)
    bend, step = None, canvas / 32
    if rng.random() < config.bending:
        shift = motion.control_shifts(rng, shape.control, clock, strength=rng.uniform(0.2, 1))
        nodes = motion.node_grid(canvas, canvas, step)
        bend = motion.limit_slope(motion.thin_plate_bend(shape.control, shift, nodes), step)
    return Body(path, bend, step), _sprites(rng, shape, canvas, clock)


def _sample_path(
    rng: np.random.Generator,
    config: SceneConfig,
    camera: _Camera,
    ground: Body,
    clock: np.ndarray,
    canvas: int,
) -> np.ndarray:
    """Homographies of an object; drawn again until it really moves relative to the background."""
    unit = _unit(config)
    frame = np.array([config.render_width, config.render_height])
    for _ in range(20):
        position = _sample_positions(rng, config, clock) + camera.shake
        wobble = motion.smooth_noise(rng, clock, 4, period=rng.uniform(15, 50))
        scale = np.exp(rng.normal(0, 0.006) * clock + rng.uniform(0, 0.12) * wobble[:, 0])
        turn = rng.normal(0, 0.008) * clock + rng.uniform(0, 0.15) * wobble[:, 1]
        angle = rng.normal(0, 0.25) + turn
        tilt = rng.uniform(0, 0.25) * wobble[:, 2:] / canvas
        inside = ((position > 0.02 * frame) & (position < 0.98 * frame)).all(1)
        if inside.mean() < 0.7:
            continue
        path = motion.placed(position, scale, angle, tilt, np.array([canvas, canvas]) / 2)
        carried = ground.homographies[1:] @ np.linalg.inv(ground.homographies[:-1])
        before = np.concatenate([position[:-1], np.ones((len(position) - 1, 1))], 1)
        moved = np.einsum("tij,tj->ti", carried, before)
        relative = np.linalg.norm(position[1:] - moved[:, :2] / moved[:, 2:], axis=1)
        if relative.mean() > config.min_relative_speed * unit:
            break
    return path


def _sample_positions(
    rng: np.random.Generator, config: SceneConfig, clock: np.ndarray
) -> np.ndarray:
    """Centre of an object over time: kept near one place by the camera, or crossing the frame."""
    unit = _unit(config)
    frame = np.array([config.render_width, config.render_height])
    sway = motion.smooth_noise(rng, clock, 2, period=rng.uniform(8, 40)) * (1, 0.6)
    if rng.random() < config.followed:
        start = rng.normal(0.5, 0.13, 2) * frame
        velocity = rng.normal(0, 0.6, 2) * unit
        return start + velocity * clock[:, None] + sway * rng.uniform(1, 12) * unit
    speed = _log_uniform(rng, 0.8, config.max_speed) * unit
    angle = rng.normal(0, 0.4) + np.pi * rng.integers(2)
    velocity = speed * np.array([np.cos(angle), np.sin(angle)])
    # Half way through the clip it is somewhere inside the frame.
    middle = rng.uniform(0.15, 0.85, 2) * frame
    drift = velocity * (clock - clock.mean())[:, None]
    return middle + drift + sway * rng.uniform(0, 10) * unit


def _sprites(
    rng: np.random.Generator, shape: Shape, canvas: int, clock: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Textured limbs of one object, one texture running through all of them, with their poses."""
    image = texture(rng, canvas, canvas)
    period = rng.uniform(8, 40)
    beat = 2 * np.pi * clock / period
    swing = np.array([limb.swing for limb in shape.limbs])
    phase = np.array([limb.phase for limb in shape.limbs])
    angles = swing * np.sin(beat[:, None] + phase)
    poses = motion.joint_poses(
        [limb.parent for limb in shape.limbs],
        np.stack([limb.pivot for limb in shape.limbs]),
        angles,
    )
    sprites = []
    for limb, pose in zip(shape.limbs, poses, strict=True):
        sprite, offset = _crop(limb.alpha, image)
        sprites.append((sprite, pose @ motion.translation(offset)))
    return sprites


def _crop(
    alpha: UInt8[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"]
) -> tuple[UInt8[np.ndarray, "a b 4"], Float64[np.ndarray, "2"]]:
    """Sprite of the covered rectangle with a transparent rim, and the rectangle's corner (x, y)."""
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    top, left = max(rows[0] - 2, 0), max(columns[0] - 2, 0)
    bottom, right = rows[-1] + 3, columns[-1] + 3
    sprite = np.concatenate([image, alpha[..., None]], -1)[top:bottom, left:right].copy()
    rim = sprite[..., 3]
    rim[0], rim[-1], rim[:, 0], rim[:, -1] = 0, 0, 0, 0
    return sprite, np.array([left, top], float)

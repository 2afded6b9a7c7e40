"""Directed scenes with exact truth, on which tracking is measured.

`compose_scene` draws short random clips for training. The scenes here are longer and follow a
script: objects cross, hide, leave and return, or stop. The script fixes what happens; everything
else (shapes, textures, sizes, speeds, the camera) is drawn from a seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from scipy.ndimage import gaussian_filter1d

from data_pipelines.synthetic import motion
from data_pipelines.synthetic.backgrounds import Camera, sample_background
from data_pipelines.synthetic.plan import SceneKind
from data_pipelines.synthetic.scene import (
    LAYERS,
    OCCLUDER,
    Body,
    Part,
    Scene,
    SceneConfig,
    Sensor,
)
from data_pipelines.synthetic.shapes import Shape, blob, crop, polygon
from data_pipelines.synthetic.sources import PROCEDURAL

HEIGHT, WIDTH = 288, 512  # of the frames and of the true masks
STOP = 20  # frames for which an object stands still
_MIN_GRADIENT = 3.5  # mean difference of neighbouring pixels, grey levels
_MARGIN = 0.11  # centre of an object that has just left the frame, as a share of the width


@dataclass(frozen=True)
class Actor:
    """One object of a script.

    extent: side of its canvas as a share of the frame height; the shape fills three quarters of it.
    path: position of its centre on its own clock, as a share of the frame (x, y).
    stops: whether it stands still on the background between frame t - 1 and frame t.
    round: a smooth convex shape; else a polygon or a rough blob.
    """

    extent: float
    path: Float64[np.ndarray, "t 2"]
    stops: Bool[np.ndarray, " t"]
    round: bool = False


@dataclass(frozen=True)
class Wall:
    """A rectangle that moves with the background, in front of all objects.

    hides: layer of the object that passes behind it. frame: when the two centres meet.
    hidden: frames for which the object cannot be seen.
    """

    hides: int
    frame: int
    hidden: int


@dataclass(frozen=True)
class Script:
    """actors: front to back. pan: velocity of the background, pixels per frame (x, y)."""

    actors: tuple[Actor, ...]
    pan: Float64[np.ndarray, "2"]
    wall: Wall | None = None


def _crossing(rng: np.random.Generator, frames: int, period: float | int, objects: int) -> Script:
    """Objects that swing from side to side, each in its own phase, and so cross again and again.

    Two overlap when they cross; three have rows of their own and paces of their own.
    """
    actors = []
    for number in range(objects):
        pace = 1.0 if objects == 2 else (1.0, 0.8, 1.2)[number]
        phase = np.pi * number + rng.normal(0, 0.1)
        angle = 2 * np.pi * pace * np.arange(frames) / period + phase
        x = 0.5 + rng.uniform(0.27, 0.33) * np.cos(angle)
        y = 0.5 + rng.normal(0, 0.05 if objects == 2 else 0.01)
        y += rng.uniform(0.02, 0.1) * np.sin(2 * angle + 1) if objects == 2 else 0.27 * (number - 1)
        largest = 0.6 if objects == 2 else 0.44
        actors.append(_actor(rng, rng.uniform(0.36, largest), x, np.broadcast_to(y, x.shape)))
    return Script(tuple(actors), _pan(rng))


def _behind_wall(rng: np.random.Generator, frames: int, objects: int) -> Script:
    """The first object passes behind a wall; a second one moves to and fro above or below it."""
    side = rng.choice([-1, 1])
    pan = _pan(rng) * (1, 0)
    pan[0] = -side * abs(pan[0])
    middle = frames // 2
    clock = np.arange(frames) - middle
    reach = 0.42 / max(middle, frames - middle)
    row = 0.5 if objects == 1 else 0.66
    hider = _actor(rng, 0.42, 0.5 + side * reach * clock, np.full(frames, row))
    actors = [hider]
    if objects == 2:
        x = 0.5 + 0.3 * np.cos(2 * np.pi * np.arange(frames) / 110 + rng.uniform(0, 6))
        actors.append(_actor(rng, 0.42, x, np.full(frames, 0.2)))
    return Script(tuple(actors), pan, Wall(0, middle, int(rng.integers(8, 13))))


def _behind_object(rng: np.random.Generator, frames: int) -> Script:
    """A small object passes behind a large one and is out of sight for about ten frames."""
    side = rng.choice([-1, 1])
    clock = np.arange(frames) - frames / 2
    row = rng.uniform(0.46, 0.54)
    large = _actor(rng, 0.66, 0.5 - side * 0.0011 * clock, np.full(frames, row), round=True)
    x = 0.5 + side * np.clip(0.0095 * clock, -0.4, 0.4)
    small = _actor(rng, 0.32, gaussian_filter1d(x, 4), np.full(frames, row), round=True)
    return Script((large, small), _pan(rng))


def _leaving(rng: np.random.Generator, frames: int, objects: int) -> Script:
    """The first object leaves the frame and returns within 30 frames; the others stay."""
    side = rng.choice([-1, 1])
    times = [0, 0.36 * frames, 0.36 * frames + 22, frames]
    x = np.interp(np.arange(frames), times, [0.35, -_MARGIN, -_MARGIN, 0.5])
    x = 0.5 + side * (gaussian_filter1d(x, 3) - 0.5)
    actors = [_actor(rng, rng.uniform(0.38, 0.44), x, np.full(frames, rng.uniform(0.3, 0.38)))]
    for number in range(1, objects):
        angle = 2 * np.pi * np.arange(frames) / rng.uniform(80, 120) + rng.uniform(0, 6)
        y = 0.78 if number == 1 else 0.55
        actors.append(_actor(rng, 0.4, 0.5 + 0.27 * np.cos(angle), y + 0.03 * np.sin(angle)))
    return Script(tuple(actors), _pan(rng))


def _stopping(rng: np.random.Generator, frames: int, objects: int) -> Script:
    """The first object stands still on the background for 20 frames; the others go on."""
    stops = np.zeros(frames, bool)
    start = int(rng.uniform(0.35, 0.5) * frames)
    stops[start : start + STOP] = True
    clock = motion.pause_clock(frames, stops.astype(float))
    angle = 2 * np.pi * clock / rng.uniform(90, 110) + rng.uniform(0.2, 0.6)
    y = (0.3 if objects < 3 else 0.22) + rng.uniform(0.02, 0.06) * np.sin(2 * angle)
    first = _actor(rng, rng.uniform(0.4, 0.5), 0.5 + 0.25 * np.cos(angle), y, stops)
    actors = [first]
    for number in range(1, objects):
        angle = 2 * np.pi * np.arange(frames) / rng.uniform(80, 120) + rng.uniform(0, 6)
        y = 0.78 if number == 1 else 0.5
        actors.append(_actor(rng, 0.4, 0.5 + 0.28 * np.cos(angle), y + 0.04 * np.sin(angle)))
    return Script(tuple(actors), _pan(rng) * 0.6)


# What happens in each scene of the set, in frames; `tracking_scene` renders one by name.
SCRIPTS: dict[str, tuple[int, Callable[[np.random.Generator, int], Script]]] = {
    "cross-once": (60, lambda rng, frames: _crossing(rng, frames, 120, 2)),
    "cross-twice": (120, lambda rng, frames: _crossing(rng, frames, 120, 2)),
    "cross-fast": (80, lambda rng, frames: _crossing(rng, frames, 80, 2)),
    "cross-often": (300, lambda rng, frames: _crossing(rng, frames, 110, 2)),
    "cross-three": (120, lambda rng, frames: _crossing(rng, frames, 120, 3)),
    "hidden-by-wall": (70, lambda rng, frames: _behind_wall(rng, frames, 1)),
    "hidden-by-wall-two": (80, lambda rng, frames: _behind_wall(rng, frames, 2)),
    "hidden-by-object": (90, _behind_object),
    "leave": (90, lambda rng, frames: _leaving(rng, frames, 1)),
    "leave-two": (100, lambda rng, frames: _leaving(rng, frames, 2)),
    "stop": (80, lambda rng, frames: _stopping(rng, frames, 1)),
    "stop-two": (90, lambda rng, frames: _stopping(rng, frames, 2)),
    "stop-three": (120, lambda rng, frames: _stopping(rng, frames, 3)),
}


def tracking_scene(name: str, seed: int) -> Scene:
    """The scene `name` of `SCRIPTS`; the same seed gives the same scene.

    `render` gives its RGB frames and its truth, both 288 x 512.
    """
    frames, write = SCRIPTS[name]
    rng = np.random.default_rng([seed, list(SCRIPTS).index(name)])
    config = SceneConfig(
        frames=frames,
        height=HEIGHT,
        width=WIDTH,
        render_height=HEIGHT,
        render_width=WIDTH,
        plain=0.0,
    )
    return _stage(rng, config, write(rng, frames))


def _actor(rng: np.random.Generator, extent, x, y, stops=None, round: bool = False) -> Actor:
    """An actor on the path (x, y), which sways a little besides."""
    clock = np.arange(len(x), dtype=float)
    sway = motion.smooth_noise(rng, clock, 2, period=25) * rng.uniform(0.001, 0.006)
    still = np.zeros(len(x), bool) if stops is None else stops
    return Actor(float(extent), np.stack([x, y], 1) + sway, still, round)


def _pan(rng: np.random.Generator) -> Float64[np.ndarray, "2"]:
    return np.array([rng.choice([-1, 1]) * rng.uniform(1.5, 3.0), rng.normal(0, 0.3)])


def _stage(rng: np.random.Generator, config: SceneConfig, script: Script) -> Scene:
    """Draws shapes, textures and the background, and puts them where the script has them."""
    frames = config.frames
    clock = np.arange(frames, dtype=float)
    still = np.zeros((frames, 2))
    shake = rng.uniform(0, 1.5) * motion.smooth_noise(rng, clock, 2, period=20)
    pan = clock[:, None] * script.pan
    camera = Camera(pan, shake, np.ones(frames), np.zeros(frames), still)
    bodies, backdrop, parts = _background(rng, config, camera)
    sizes = {}
    for layer in reversed(range(len(script.actors))):
        actor = script.actors[layer]
        canvas = int(actor.extent * config.render_height)
        shape = _shape(rng, canvas, actor.round)
        sprite, offset = crop(shape.limbs[0].alpha, _texture(rng, canvas, canvas))
        position = actor.path * (config.render_width, config.render_height) + shake
        path = _turned(rng, position, canvas)
        path = motion.ride_while_paused(path, bodies[0].homographies, actor.stops)
        pose = np.broadcast_to(motion.translation(offset), (frames, 3, 3))
        parts.append(Part(sprite, pose, len(bodies), layer))
        bodies.append(Body(path, *_bend(rng, shape, canvas, clock)))
        sizes[layer] = sprite.shape[:2]
    if script.wall is not None:
        actor = script.actors[script.wall.hides]
        parts.append(_wall(rng, config, script, actor, bodies[0], sizes[script.wall.hides]))
    stationary = np.zeros((frames, LAYERS), bool)
    stationary[:, : len(script.actors)] = np.stack([actor.stops for actor in script.actors], 1)
    kind = SceneKind(len(script.actors), shape="polygon", occluder=script.wall is not None)
    sensor = Sensor(noise=rng.uniform(0, 2), seed=int(rng.integers(2**31)))
    return Scene(config, kind, tuple(bodies), backdrop, tuple(parts), (), stationary, sensor)


def _background(rng: np.random.Generator, config: SceneConfig, camera: Camera):
    """A textured image; see `sample_background`."""
    while True:
        bodies, backdrop, parts = sample_background(rng, config, camera, PROCEDURAL, video=False)
        if _is_textured(backdrop.sprite[..., :3]):
            return bodies, backdrop, parts


def _texture(rng: np.random.Generator, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    while not _is_textured(image := PROCEDURAL.texture(rng, height, width)):
        pass
    return image


def _is_textured(image: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether optical flow can be estimated: the scenes measure tracking, not flow."""
    grey = image.mean(-1)
    gradient = np.abs(np.diff(grey, axis=1)).mean()
    return bool(50 < grey.mean() < 205 and gradient > _MIN_GRADIENT)


def _shape(rng: np.random.Generator, canvas: int, round: bool) -> Shape:
    """A compact shape, which fills much of its bounding box; thin ones are often not found."""
    while True:
        shape = (blob if round or rng.random() < 0.5 else polygon)(rng, canvas)
        sprite, _ = crop(shape.limbs[0].alpha, np.zeros((canvas, canvas, 3), np.uint8))
        height, width = sprite.shape[:2]
        filled = (sprite[..., 3] > 127).mean()
        if filled > (0.74 if round else 0.55) and 0.6 < height / width < 1.6:
            return shape


def _turned(
    rng: np.random.Generator, position: Float64[np.ndarray, "t 2"], canvas: int
) -> Float64[np.ndarray, "t 3 3"]:
    """Homographies of an object that turns and changes its size a little on its way."""
    wobble = motion.smooth_noise(rng, np.arange(len(position), dtype=float), 2, period=40)
    scale, angle = np.exp(0.05 * wobble[:, 0]), rng.uniform(0, 0.2) * wobble[:, 1]
    center = np.array([canvas, canvas]) / 2
    return motion.placed(position, scale, angle, np.zeros_like(position), center)


def _bend(rng: np.random.Generator, shape: Shape, canvas: int, clock: Float64[np.ndarray, " t"]):
    """Thin-plate deformation of half of the objects; arguments of `Body`."""
    step = canvas / 32
    if rng.random() < 0.5:
        return None, step
    shift = motion.control_shifts(rng, shape.control, clock, strength=0.4)
    bend = motion.thin_plate_bend(shape.control, shift, motion.node_grid(canvas, canvas, step))
    return motion.limit_slope(bend, step), step


def _wall(
    rng: np.random.Generator,
    config: SceneConfig,
    script: Script,
    actor: Actor,
    ground: Body,
    size: tuple[int, int],
) -> Part:
    """An occluder just wide enough to hide the object for the frames that the script asks for."""
    wall = script.wall
    path = actor.path * (config.render_width, config.render_height)
    before, after = path[wall.frame - wall.hidden // 2], path[wall.frame + wall.hidden // 2]
    velocity = (after - before) / (2 * (wall.hidden // 2)) - script.pan
    # A bend, a turn and a change of size make an object up to an eighth larger.
    width = int(1.12 * size[1] + wall.hidden * abs(velocity[0]))
    height = int(1.4 * size[0] + 0.1 * config.render_height)
    texture = _texture(rng, height, width)
    sprite = np.concatenate([texture, np.full((height, width, 1), 255, np.uint8)], -1)
    sprite[[0, -1], :, 3] = sprite[:, [0, -1], 3] = 0
    point = np.linalg.inv(ground.homographies[wall.frame]) @ np.append(path[wall.frame], 1)
    corner = point[:2] / point[2] - np.array([width, height]) / 2
    pose = np.broadcast_to(motion.translation(corner), (config.frames, 3, 3))
    return Part(sprite, pose, 0, OCCLUDER)

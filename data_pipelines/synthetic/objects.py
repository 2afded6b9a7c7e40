"""Moving objects: paths, deformation, limbs, pauses, shadows and reflections."""

import numpy as np
from jaxtyping import Bool, Float64

from data_pipelines.synthetic import motion
from data_pipelines.synthetic.backgrounds import Camera
from data_pipelines.synthetic.motion import log_uniform
from data_pipelines.synthetic.plan import SceneKind
from data_pipelines.synthetic.scene import (
    REFERENCE_WIDTH,
    Body,
    Effect,
    Part,
    SceneConfig,
)
from data_pipelines.synthetic.shapes import Shape, crop, polygon
from data_pipelines.synthetic.sources import Sources


def sample_pauses(
    rng: np.random.Generator, frames: int, objects: int
) -> Bool[np.ndarray, "t objects"]:
    """Samples pauses of 1 to 5 frames for at least one of the objects (supplement B.4)."""
    chosen = rng.random(objects) < 0.5
    chosen[int(rng.integers(objects))] = True
    still = np.zeros((frames, objects), bool)
    for layer in np.flatnonzero(chosen):
        length = min(int(rng.integers(1, 6)), frames - 1)
        start = int(rng.integers(1, frames - length + 1))
        still[start : start + length, layer] = True
    return still


def sample_object(
    rng: np.random.Generator,
    config: SceneConfig,
    kind: SceneKind,
    camera: Camera,
    ground: Body,
    stationary: Bool[np.ndarray, " t"],
    sources: Sources,
    index: int,
    layer: int,
) -> tuple[Body, list[Part], list[Effect]]:
    """Samples an object: its body (number `index`), its parts back to front, and its effects."""
    height = config.render_height
    largest = config.max_extent / (1 + 0.2 * (kind.objects - 1))
    extent = log_uniform(rng, config.min_extent, largest) * height
    canvas = max(16, int(extent * 1.3))
    if kind.shape == "polygon":
        shape = polygon(rng, canvas)
    else:
        shape = sources.silhouette(rng, canvas)
    clock = motion.pause_clock(config.frames, stationary.astype(float))
    path = _sample_path(rng, config, camera, ground, clock, canvas)
    path = motion.ride_while_paused(path, ground.homographies, stationary)
    bend, step = None, canvas / 32
    if kind.motion == "spline":
        shift = motion.control_shifts(rng, shape.control, clock, strength=rng.uniform(0.2, 1))
        nodes = motion.node_grid(canvas, canvas, step)
        bend = motion.limit_slope(motion.thin_plate_bend(shape.control, shift, nodes), step)
    # An object that moves by a homography alone has rigid joints.
    poses = _limb_poses(rng, shape, clock if bend is not None else np.zeros_like(clock))
    image = sources.texture(rng, canvas, canvas)
    parts = []
    for limb, pose in zip(shape.limbs, poses, strict=True):
        sprite, offset = crop(limb.alpha, image)
        parts.append(Part(sprite, pose @ motion.translation(offset), index, layer))
    return Body(path, bend, step), parts, _sample_effects(rng, config, shape, layer)


def _sample_path(
    rng: np.random.Generator,
    config: SceneConfig,
    camera: Camera,
    ground: Body,
    clock: Float64[np.ndarray, " t"],
    canvas: int,
) -> Float64[np.ndarray, "t 3 3"]:
    """Samples the homographies of an object until it moves relative to the background."""
    unit = config.render_width / REFERENCE_WIDTH
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
            return path
    # After 20 attempts the last path is kept, even if it is slow or mostly outside.
    return motion.placed(position, scale, angle, tilt, np.array([canvas, canvas]) / 2)


def _sample_positions(
    rng: np.random.Generator, config: SceneConfig, clock: Float64[np.ndarray, " t"]
) -> Float64[np.ndarray, "t 2"]:
    """Centres of an object: either the camera follows it, or it crosses the frame."""
    unit = config.render_width / REFERENCE_WIDTH
    frame = np.array([config.render_width, config.render_height])
    sway = motion.smooth_noise(rng, clock, 2, period=rng.uniform(8, 40)) * (1, 0.6)
    if rng.random() < config.followed:
        start = rng.normal(0.5, 0.13, 2) * frame
        velocity = rng.normal(0, 0.6, 2) * unit
        return start + velocity * clock[:, None] + sway * rng.uniform(1, 12) * unit
    speed = log_uniform(rng, config.min_speed, config.max_speed) * unit
    angle = rng.normal(0, 0.4) + np.pi * rng.integers(2)
    velocity = speed * np.array([np.cos(angle), np.sin(angle)])
    # In the middle of the clip it is inside the frame.
    middle = rng.uniform(0.15, 0.85, 2) * frame
    drift = velocity * (clock - clock.mean())[:, None]
    return middle + drift + sway * rng.uniform(0, 10) * unit


def _limb_poses(
    rng: np.random.Generator, shape: Shape, clock: Float64[np.ndarray, " t"]
) -> Float64[np.ndarray, "limbs t 3 3"]:
    """All joints swing at one frequency, as in walking, each with its own phase."""
    beat = 2 * np.pi * clock / rng.uniform(7, 30)
    swing = np.array([limb.swing for limb in shape.limbs])
    phase = np.array([limb.phase for limb in shape.limbs])
    return motion.joint_poses(
        [limb.parent for limb in shape.limbs],
        np.stack([limb.pivot for limb in shape.limbs]),
        swing * np.sin(beat[:, None] + phase),
    )


def _sample_effects(
    rng: np.random.Generator, config: SceneConfig, shape: Shape, layer: int
) -> list[Effect]:
    """Samples a cast shadow, a reflection, both or neither.

    Both are attached to the lowest row of the undeformed object: a shadow is squeezed and slanted;
    a reflection is mirrored below the row.
    """
    covered = np.max([limb.alpha for limb in shape.limbs], axis=0)
    bottom = float(np.flatnonzero((covered > 127).any(1))[-1])
    size = len(covered)
    effects = []
    if rng.random() < config.shadows:
        squeeze, slant = rng.uniform(0.1, 0.5) * rng.choice([-1, 1]), rng.uniform(-0.8, 0.8)
        matrix = _shear_at_row(bottom, slant, squeeze)
        softness = rng.uniform(0.005, 0.05) * size
        effects.append(Effect(layer, matrix, rng.uniform(0.25, 0.75), False, softness))
    if rng.random() < config.reflections:
        matrix = _shear_at_row(bottom, rng.normal(0, 0.05), -rng.uniform(0.6, 1.0))
        softness = rng.uniform(0.005, 0.03) * size
        effects.append(Effect(layer, matrix, rng.uniform(0.2, 0.7), True, softness))
    return effects


def _shear_at_row(line: float, slant: float, squeeze: float) -> Float64[np.ndarray, "3 3"]:
    """Squeezes (mirrors if negative) and slants what is above the row y = line, which stays."""
    return np.array(
        [[1.0, slant, -slant * line], [0.0, squeeze, line * (1 - squeeze)], [0.0, 0.0, 1.0]]
    )

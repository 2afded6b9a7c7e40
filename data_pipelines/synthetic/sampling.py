"""Samples whole scenes."""

import numpy as np

from data_pipelines.synthetic.backgrounds import sample_background, sample_camera, sample_occluder
from data_pipelines.synthetic.objects import sample_object, sample_pauses
from data_pipelines.synthetic.plan import SceneKind, scene_kind
from data_pipelines.synthetic.scene import LAYERS, Effect, Footage, Scene, SceneConfig, Sensor
from data_pipelines.synthetic.sources import PROCEDURAL, Sources

_KINDS = 48  # sequences after which the kinds of 1, 2 and 3 objects repeat


def sample_scene(
    rng: np.random.Generator,
    config: SceneConfig,
    objects: int | None = None,
    sources: Sources = PROCEDURAL,
) -> Scene:
    """Samples a scene of any kind with `objects` objects (1 to 3; random if None).

    Kinds have the proportions of table B5; `compose_scene` samples a scene of a given kind.
    """
    objects = int(rng.integers(1, LAYERS + 1)) if objects is None else objects
    return compose_scene(rng, config, scene_kind(int(rng.integers(_KINDS)), (objects,)), sources)


def compose_scene(
    rng: np.random.Generator, config: SceneConfig, kind: SceneKind, sources: Sources = PROCEDURAL
) -> Scene:
    """Samples a scene of a kind.

    Args:
      rng: the source of all randomness.
      config: sizes and ranges.
      kind: number of objects, kind of background, motion and shape.
      sources: of textures, silhouettes and background videos.

    Returns:
      A record with every sprite and path, for `render`.

    Source: OCLR section 3 and supplement B.
    """
    camera = sample_camera(rng, config)
    video = kind.background == "video"
    bodies, backdrop, parts = sample_background(rng, config, camera, sources, video)
    stationary = np.zeros((config.frames, LAYERS), bool)
    if kind.stationary:
        stationary[:, : kind.objects] = sample_pauses(rng, config.frames, kind.objects)
    effects: list[Effect] = []
    for layer in reversed(range(kind.objects)):
        body, own, cast = sample_object(
            rng,
            config,
            kind,
            camera,
            bodies[0],
            stationary[:, layer],
            sources,
            index=len(bodies),
            layer=layer,
        )
        bodies.append(body)
        parts += own
        effects += cast
    if kind.occluder:
        frame = int(rng.integers(config.frames))
        part = parts[int(rng.integers(len(parts)))]
        middle = bodies[part.body].homographies[frame] @ part.pose[frame]
        center = middle @ [part.sprite.shape[1] / 2, part.sprite.shape[0] / 2, 1]
        passes = center[:2] / center[2]
        parts.append(sample_occluder(rng, config, sources, bodies[0], passes, frame))
    sensor = _sample_sensor(rng, config, real=isinstance(backdrop, Footage))
    return Scene(
        config, kind, tuple(bodies), backdrop, tuple(parts), tuple(effects), stationary, sensor
    )


def _sample_sensor(rng: np.random.Generator, config: SceneConfig, real: bool) -> Sensor:
    # Real footage has its own motion blur, and its motion is not known exactly.
    blurred = rng.random() < config.blurred and not real
    shutter = rng.uniform(config.min_shutter, config.max_shutter) if blurred else 0.0
    noise = rng.uniform(0.5, config.max_noise) if rng.random() < config.noisy else 0.0
    compressed = rng.random() < config.compressed
    quality = int(rng.integers(config.min_quality, 91)) if compressed else 0
    return Sensor(shutter, noise, quality, seed=int(rng.integers(2**31)))

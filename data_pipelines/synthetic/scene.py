"""A synthetic clip before rendering: plain records of arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from data_pipelines.synthetic.plan import SceneKind

# Number of layers of every sample; empty ones are last.
LAYERS = 3
# `layer` of parts that belong to the background or to the occluder.
BACKGROUND, OCCLUDER = -1, -2
# Lengths and speeds below are in pixels of a frame of this width; they scale with the frame.
REFERENCE_WIDTH = 448


@dataclass(frozen=True)
class SceneConfig:
    """Sizes and ranges of scenes. Speeds are in pixels per frame at a width of 448."""

    # Frames of a clip.
    frames: int = 30
    # Model grid: flow and masks are stored there.
    height: int = 128
    width: int = 224
    # The flow estimator's working resolution: RGB is rendered there.
    render_height: int = 256
    render_width: int = 448
    # Object extent as a fraction of the frame height; log-uniform.
    min_extent: float = 0.28
    max_extent: float = 1.3
    # Fraction of clips without camera pan.
    static_camera: float = 0.2
    # Fastest pan; log-uniform from a 20th of it.
    max_pan: float = 14.0
    # Slowest and fastest object that the camera does not follow; log-uniform.
    min_speed: float = 1.2
    max_speed: float = 12.0
    # Fraction of objects that the camera follows.
    followed: float = 0.55
    # Smallest mean speed of an object relative to the background.
    min_relative_speed: float = 1.2
    # Fraction of objects with a cast shadow, and with a reflection as in water; both move with the
    # object and belong to the background.
    shadows: float = 0.35
    reflections: float = 0.1
    # Fraction of procedural backdrops with a nearly textureless region, such as sky or road.
    plain: float = 0.4
    # Fraction of clips with motion blur, and its shortest and longest exposure in frame intervals.
    blurred: float = 0.3
    min_shutter: float = 0.1
    max_shutter: float = 0.5
    # Fraction of clips with sensor noise, and its largest standard deviation in grey levels.
    noisy: float = 0.5
    max_noise: float = 5.0
    # Fraction of clips with compression artefacts, and the lowest JPEG quality.
    compressed: float = 0.5
    min_quality: int = 30


@dataclass(frozen=True)
class Body:
    """Something that moves as a whole: a background, or an object with all its parts.

    homographies: from the body's canvas to the rendered frame, pixels, one per frame.
    bend: displacement of the canvas before the homography, at nodes `bend_step` pixels apart
        (pixels), or None for a rigid body.
    """

    homographies: Float64[np.ndarray, "t 3 3"]
    bend: Float32[np.ndarray, "t n m 2"] | None
    bend_step: float


@dataclass(frozen=True)
class Part:
    """A sprite that is painted over what is behind it.

    sprite: RGB and coverage.
    pose: from sprite pixels to the body's canvas, one per frame.
    body: index of its body.
    layer: index of its object, 0 in front; or `BACKGROUND`, or `OCCLUDER`.
    """

    sprite: UInt8[np.ndarray, "h w 4"]
    pose: Float64[np.ndarray, "t 3 3"]
    body: int
    layer: int


@dataclass(frozen=True)
class Footage:
    """A real video as the backdrop; body 0 approximates its camera motion by homographies."""

    frames: UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True)
class Effect:
    """A cast shadow or a reflection, which moves with an object.

    It changes the colours of the background; masks and exact flow there remain the background's.

    layer: of the object that it belongs to.
    matrix: maps the canvas of the object's body to the place of the shadow or mirror image, on the
        same canvas.
    strength: opacity, 0 to 1.
    mirror: True for a reflection with the object's texture, False for a shadow.
    softness: blur, pixels.
    """

    layer: int
    matrix: Float64[np.ndarray, "3 3"]
    strength: float
    mirror: bool
    softness: float


@dataclass(frozen=True)
class Sensor:
    """Degradation of the RGB frames by a camera; the ground truth is not affected.

    shutter: fraction of the frame interval in which the shutter is open (0: no motion blur).
    noise: standard deviation, grey levels.
    quality: of JPEG compression, 1 to 100 (0: none).
    seed: of the noise.
    """

    shutter: float = 0.0
    noise: float = 0.0
    quality: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A clip before rendering.

    bodies: index 0 is the background.
    backdrop: fills the frame; a part is mirrored beyond its borders.
    parts: in front of the backdrop, back to front.
    effects: shadows and reflections, painted over the background and behind every object.
    stationary: whether layer k moves with the background between frames t - 1 and t.
    """

    config: SceneConfig
    kind: SceneKind
    bodies: tuple[Body, ...]
    backdrop: Part | Footage
    parts: tuple[Part, ...]
    effects: tuple[Effect, ...]
    stationary: Bool[np.ndarray, "t 3"]
    sensor: Sensor = Sensor()

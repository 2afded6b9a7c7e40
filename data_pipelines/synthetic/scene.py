"""What happens in a synthetic clip: plain records of arrays, complete before anything is drawn."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from data_pipelines.synthetic.plan import SceneKind

# Layers of every sample; empty ones are last.
LAYERS = 3
# Layers of parts that are no object's: they belong to the background, or to the occluder.
BACKGROUND, OCCLUDER = -1, -2
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
    # Fastest object; drawn log-uniformly from a tenth of it.
    max_speed: float = 12.0
    # Share of objects that the camera keeps near one place.
    followed: float = 0.55
    # Least mean speed of an object relative to the background.
    min_relative_speed: float = 1.2
    # Share of objects with a cast shadow, and share with a reflection as in water; both move with
    # the object and belong to the background.
    shadows: float = 0.35
    reflections: float = 0.1
    # Share of procedural backdrops with a region almost without texture, such as sky or road.
    plain: float = 0.4
    # Share of clips with motion blur; the shutter is open for up to half of the frame interval.
    blurred: float = 0.3
    # Share of clips with sensor noise, and its largest deviation in grey levels.
    noisy: float = 0.5
    max_noise: float = 5.0
    # Share of clips with compression artefacts, and the lowest JPEG quality.
    compressed: float = 0.5
    min_quality: int = 30


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
    body: index of its body. layer: 0 is the object in front, `BACKGROUND`, or `OCCLUDER`.
    """

    sprite: UInt8[np.ndarray, "h w 4"]
    pose: Float64[np.ndarray, "t 3 3"]
    body: int
    layer: int


@dataclass(frozen=True)
class Footage:
    """A real video as the backdrop; body 0 follows its camera as well as a homography can."""

    frames: UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True)
class Effect:
    """A cast shadow or a reflection: it moves with an object and is no object.

    It changes the brightness of the background and owns no pixel: masks and exact flow there are
    the background's.

    layer: the object whose it is. matrix: canvas of that object's body to itself, to where the
    shadow or the mirror image lies. strength: weight of what is painted, 0 to 1.
    mirror: a reflection with the object's own texture, else a shadow. softness: blur, pixels.
    """

    layer: int
    matrix: Float64[np.ndarray, "3 3"]
    strength: float
    mirror: bool
    softness: float


@dataclass(frozen=True)
class Sensor:
    """What the camera does to a picture, after all truth is taken.

    shutter: share of the frame interval that it is open (0: no blur). noise: deviation, grey
    levels. quality: of JPEG compression, 1 to 100 (0: none). seed: of the noise.
    """

    shutter: float = 0.0
    noise: float = 0.0
    quality: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Scene:
    """A clip before rendering.

    bodies: 0 is the backdrop's.
    backdrop: fills the frame at all times; a part is mirrored beyond its borders.
    parts: what is in front of it, back to front.
    effects: shadows and reflections, painted over the background and behind every object.
    stationary: whether layer k rides on the background between frame t - 1 and frame t.
    """

    config: SceneConfig
    kind: SceneKind
    bodies: tuple[Body, ...]
    backdrop: Part | Footage
    parts: tuple[Part, ...]
    effects: tuple[Effect, ...]
    stationary: Bool[np.ndarray, "t 3"]
    sensor: Sensor = Sensor()
